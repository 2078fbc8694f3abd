//! Step 9: tells the pod's owner.
