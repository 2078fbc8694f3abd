//! Step 8: from a record to a violation that a person can read.
