//! Step 2: signal names and numbers of Linux on x86-64 (signal(7)). Pure.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Those whose default action ends the process. What stops it or is ignored by default is no alarm.
const NAMED: [(&str, u8); 23] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGSTKFLT", 16),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
    ("SIGVTALRM", 26),
    ("SIGPROF", 27),
    ("SIGIO", 29),
    ("SIGPWR", 30),
    ("SIGSYS", 31),
];

/// Those that stop the process, or that it never hears of unless it asks: a program may choose one by its prctl,
/// so they have names; a policy may not.
const UNNOTICED: [(&str, u8); 8] = [
    ("SIGCHLD", 17),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGWINCH", 28),
];

/// The first real-time number that glibc does not use itself (nptl(7)) is 35: it counts SIGRTMIN from 34.
const REAL_TIME: std::ops::RangeInclusive<u8> = 35..=64;

pub fn number(signal: &IntOrString) -> Option<u8> {
    let real_time = |number: u8| REAL_TIME.contains(&number).then_some(number);
    match signal {
        IntOrString::Int(number) => real_time(u8::try_from(*number).ok()?),
        IntOrString::String(text) => match NAMED.iter().find(|(name, _)| name == text) {
            Some((_, number)) => Some(*number),
            None => real_time(text.parse().ok()?),
        },
    }
}

/// For people: SIGUSR1, SIGRTMIN+6, or the bare number.
pub fn name(number: u32) -> String {
    match NAMED.iter().chain(&UNNOTICED).find(|(_, known)| u32::from(*known) == number) {
        Some((name, _)) => (*name).to_owned(),
        None if (34..=64).contains(&number) => format!("SIGRTMIN+{}", number - 34),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_real_time_numbers_are_signals_and_nothing_else_is() {
        let by_name = |text: &str| number(&IntOrString::String(text.to_owned()));
        assert_eq!((by_name("SIGUSR1"), by_name("SIGKILL"), by_name("40")), (Some(10), Some(9), Some(40)));
        assert_eq!(
            (by_name("SIGSTOP"), by_name("SIGCHLD"), by_name("10"), by_name("")),
            (None, None, None, None)
        );
        let by_number = |number_| number(&IntOrString::Int(number_));
        assert_eq!(
            (by_number(35), by_number(64), by_number(34), by_number(-1)),
            (Some(35), Some(64), None, None)
        );
        assert_eq!(by_number(65), None);
    }

    #[test]
    fn numbers_have_names_for_people() {
        assert_eq!(
            (name(10), name(40), name(77)),
            ("SIGUSR1".into(), "SIGRTMIN+6".into(), "signal 77".into())
        );
    }

    #[test]
    fn every_standard_signal_has_one_name_and_is_either_noticed_or_not() {
        let names: std::collections::BTreeSet<String> = (1..=31).map(name).collect();
        assert_eq!((names.len(), NAMED.len() + UNNOTICED.len()), (31, 31));
        for (unnoticed, _) in UNNOTICED {
            assert_eq!(number(&IntOrString::String(unnoticed.to_owned())), None, "{unnoticed}");
        }
    }
}
