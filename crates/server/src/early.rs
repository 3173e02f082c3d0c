//! What has to happen before `main`: the allocator takes its first memory before that, and in huge pages if it
//! may. Two of those are a third of all that an idle member needs ([`ferrite_server::memory`]).

/// Runs before the allocator is set up: priorities up to 100 are the system's own, and nothing of ours has run yet.
// SAFETY: the section is a list of functions without arguments and results, called once each, in the only thread there
// is; what stands here is such a function. It makes one call of the system, and needs nothing of Rust's runtime.
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array.00099"))]
static SMALL: extern "C" fn() = {
    extern "C" fn small() {
        #[cfg(target_os = "linux")]
        // SAFETY: a number goes in and a number comes out; a kernel that does not know it changes nothing.
        unsafe {
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        }
    }
    small
};
