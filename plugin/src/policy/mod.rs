//! Step 2: from annotations and policies to the `Effective` policy of one container.

pub mod effective;
