//! What a (re)connect to the runtime brings.
