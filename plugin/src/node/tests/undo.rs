use super::{
    super::{NodeError, apply::Did, apply::Place, boot_loader::within, grub::DROP_IN, state, tools::Run},
    Machine, told,
};

/// A boot loader whose program fails, and fails again when it is asked to undo.
struct Broken;

impl Run for Broken {
    fn run(&self, program: &str, _: &[&str]) -> Result<(), NodeError> {
        Err(NodeError::Tool { command: program.into(), status: "exit status: 1".into(), output: "no".into() })
    }
}

fn broken(machine: &Machine) -> Place<'_> {
    Place { root: machine.root(), state: state::path(&machine.state_dir()), tools: &Broken }
}

fn is_clean(machine: &Machine) -> bool {
    !within(machine.root(), DROP_IN.as_ref()).exists() && !state::path(&machine.state_dir()).exists()
}

#[test]
fn what_could_not_be_undone_is_said_and_left_to_restore() {
    let machine = Machine::with_grubby();
    let error = told(broken(&machine).apply(machine.plan("1-3"), 3, false).unwrap_err());
    assert!(error.starts_with("not applied, and it could not be undone (/usr/sbin/grubby failed"), "{error}");
    assert_eq!(machine.place().restore(false).unwrap().did, Did::Restored);
    assert!(is_clean(&machine));
}

#[test]
fn a_restore_that_failed_does_not_claim_to_be_undone_and_is_finished_by_the_next() {
    let machine = Machine::with_grub();
    machine.place().apply(machine.plan("1-3"), 3, false).unwrap();
    let error = told(broken(&machine).restore(false).unwrap_err());
    assert!(
        error.starts_with("not restored yet: repair this and run `quietcore node restore` again: "),
        "{error}"
    );
    assert_eq!(machine.place().restore(false).unwrap().did, Did::Restored);
    assert!(is_clean(&machine));
}

#[test]
fn a_file_that_was_never_written_needs_no_program_to_be_undone() {
    let machine = Machine::with_grub();
    // In the place of the unfinished file: root may write to any folder that is not read-only.
    let unfinished = within(machine.root(), DROP_IN.as_ref()).with_extension("unfinished");
    std::fs::create_dir_all(unfinished).unwrap();
    let error = told(broken(&machine).apply(machine.plan("1-3"), 3, false).unwrap_err());
    assert!(error.starts_with("not applied, everything is as before: write /"), "{error}");
    assert!(error.contains(DROP_IN) && is_clean(&machine), "{error}");
}

#[test]
fn a_boot_loader_that_went_away_is_asked_for_by_name() {
    let machine = Machine::with_grub();
    machine.place().apply(machine.plan("1-3"), 3, false).unwrap();
    machine.remove("usr/sbin/grub-mkconfig");
    let error = told(machine.place().restore(false).unwrap_err());
    assert!(
        error.contains("not restored yet") && error.contains("grub-mkconfig is gone: install it"),
        "{error}"
    );
}
