//! Step 8: a page fault's error code in words. Bits as in the kernel's arch/x86/include/asm/trap_pf.h. Pure.

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;
const PROTECTION_KEY: u64 = 1 << 5;

pub(super) fn words(address: u64, code: u64) -> String {
    let access = match () {
        () if code & FETCH != 0 => "executing",
        () if code & WRITE != 0 => "writing",
        () => "reading",
    };
    let why = match () {
        () if code & PROTECTION_KEY != 0 => "protection key",
        () if code & PRESENT != 0 => "not permitted",
        () => "not present",
    };
    format!("page fault {access} {address:#x} ({why})")
}
