//! The signal that asks a container to end, in its many spellings.

use cairn_contract::cri;
use oci_spec::image::ImageConfiguration;

/// The pod's wish, else the image's, else SIGTERM.
pub(super) fn to_stop(config: &cri::ContainerConfig, image: &ImageConfiguration) -> i32 {
    let of_pod = match config.stop_signal() {
        cri::Signal::RuntimeDefault => None,
        signal => number(signal.as_str_name()),
    };
    let of_image = || image.config().as_ref()?.stop_signal().as_deref().and_then(number);
    of_pod.or_else(of_image).unwrap_or(libc::SIGTERM)
}

/// `SIGTERM`, `TERM` or `15`; `None` if there is no such signal.
fn number(name: &str) -> Option<i32> {
    let number = name.parse().ok().or_else(|| named(name))?;
    (1..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

fn named(name: &str) -> Option<i32> {
    let short = name.strip_prefix("SIG").unwrap_or(name);
    let known = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("ABRT", libc::SIGABRT),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("PIPE", libc::SIGPIPE),
        ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM),
        ("CHLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("STOP", libc::SIGSTOP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
        ("VTALRM", libc::SIGVTALRM),
        ("PROF", libc::SIGPROF),
        ("WINCH", libc::SIGWINCH),
        ("IO", libc::SIGIO),
        ("PWR", libc::SIGPWR),
        ("SYS", libc::SIGSYS),
        ("TRAP", libc::SIGTRAP),
        ("BUS", libc::SIGBUS),
        ("SEGV", libc::SIGSEGV),
    ];
    if let Some((_, number)) = known.iter().find(|(known, _)| *known == short) {
        return Some(*number);
    }
    // Real-time signals: CRI writes RTMINPLUS3, images write RTMIN+3.
    let offset = |prefixes: [&str; 2]| {
        prefixes.iter().find_map(|prefix| short.strip_prefix(prefix)?.parse::<i32>().ok())
    };
    match short {
        "RTMIN" => Some(libc::SIGRTMIN()),
        "RTMAX" => Some(libc::SIGRTMAX()),
        _ => offset(["RTMINPLUS", "RTMIN+"])
            .map(|plus| libc::SIGRTMIN().saturating_add(plus))
            .or_else(|| offset(["RTMAXMINUS", "RTMAX-"]).map(|minus| libc::SIGRTMAX().saturating_sub(minus))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn signals_have_many_spellings() {
        for (name, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("SIGRTMINPLUS3", 37),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(super::number(name), Some(number), "{name}");
        }
        for name in ["SIGNONE", "0", "-1", "65", "RTMIN+31", "RTMIN+2147483647", "RTMAX--2147483648", ""] {
            assert_eq!(super::number(name), None, "{name}");
        }
    }
}
