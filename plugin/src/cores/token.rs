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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_128_random_bits() {
        let [one, other] = [Token::random().unwrap(), Token::random().unwrap()];
        assert_eq!(
            (one.as_str().len(), one.as_str().bytes().all(|byte| byte.is_ascii_hexdigit())),
            (32, true)
        );
        assert_ne!(one, other);
    }

    #[test]
    fn a_log_shows_too_little_of_it_to_use() {
        assert_eq!(format!("{:?}", Token::of("0123456789abcdef0123456789abcdef")), "Token(012345...)");
        // A pod may write anything into the annotation.
        assert_eq!(format!("{:?}", Token::of("h\u{e4}\u{e4}\u{e4}\u{e4}")), "Token(...)");
    }
}
