//! Step 4: containerd and CRI-O, through NRI.
