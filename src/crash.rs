//! Points at which the crash tests kill the process, and the bugs that they seed to test their own oracle (`tests/rig`);
//! nothing at all in a build without the `failpoints` feature.

/// Kills this process as `kill -9` would, when `FAILPOINTS` names this point (for example `post_w2=return`).
#[inline]
pub fn point(name: &'static str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, |_argument| kill());
    #[cfg(not(feature = "failpoints"))]
    let _unused = name;
}

/// Whether the bug of this name was seeded (for example `FAILPOINTS=bug_skip_w1=return`): never, in a build that is not for
/// the crash tests.
#[inline]
#[must_use]
pub fn bug(name: &'static str) -> bool {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, |_argument| true);
    #[cfg(not(feature = "failpoints"))]
    let _unused = name;
    false
}

#[cfg(feature = "failpoints")]
fn kill() {
    // SAFETY: both calls take plain integers and touch no memory of ours.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
}
