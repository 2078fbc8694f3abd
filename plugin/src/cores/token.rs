//! Step 3: the random token that ties an allocation to one container.
//!
//! Some runtime configurations let a pod put annotations on its own containers, so a token must not be
//! guessable, and is bound to one pod and container at its first use.

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// The annotation on the container that carries it; Allocate's answer puts it there.
pub const ANNOTATION: &str = "grant.quietcore.io/token";

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token(String);

impl Token {
    pub fn random() -> std::io::Result<Token> {
        let mut bytes = [0u8; 16];
        let n_bytes = getrandom(&mut bytes[..], GetRandomFlags::empty())?;
        if n_bytes != bytes.len() {
            return Err(std::io::Error::other("getrandom(2) gave fewer bytes than asked for"));
        }
        Ok(Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    pub fn of(text: &str) -> Token {
        Token(text.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Logs show enough to tell two apart, and not enough to use one.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}...)", self.0.get(..6).unwrap_or_default())
    }
}
