//! stub
use std::process::ExitCode;
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: crate::args::Format,
}
pub fn run(_args: &CheckArgs) -> ExitCode {
    ExitCode::FAILURE
}
