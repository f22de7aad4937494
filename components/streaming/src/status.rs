//! How a command ended, as the client reads it on the error stream.

use crate::{negotiate::CommandVersion, request::Finish};
use serde_json::json;

/// The bytes for the error stream. From version 4 on they are a `metav1.Status` in JSON in any case; before, a sentence, and
/// nothing when all went well.
pub(crate) fn report(finish: &Finish, version: CommandVersion) -> Vec<u8> {
    let message = match finish {
        Finish::Exited(0) => None,
        Finish::Exited(code) => {
            Some(format!("command terminated with non-zero exit code: exit status {code}"))
        }
        Finish::Failed(reason) => Some(format!("Internal error occurred: {reason}")),
    };
    if version < CommandVersion::V4 {
        return message.unwrap_or_default().into_bytes();
    }
    let status = match (finish, message) {
        (Finish::Exited(code), Some(message)) => json!({
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        (Finish::Failed(reason), Some(message)) => json!({
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": "InternalError",
            "details": { "causes": [{ "message": reason }] },
            "code": 500,
        }),
        (_, None) => json!({ "metadata": {}, "status": "Success" }),
    };
    status.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn parsed(finish: &Finish) -> Value {
        serde_json::from_slice(&report(finish, CommandVersion::V4)).unwrap()
    }

    #[test]
    fn exit_codes_are_causes() {
        assert_eq!(parsed(&Finish::Exited(0)), json!({ "metadata": {}, "status": "Success" }));
        let status = parsed(&Finish::Exited(137));
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"], json!([{ "reason": "ExitCode", "message": "137" }]));
    }

    #[test]
    fn a_failure_is_no_exit_code() {
        let status = parsed(&Finish::Failed("the container is not running".to_owned()));
        assert_eq!(status["reason"], "InternalError");
        assert_eq!(status["message"], "Internal error occurred: the container is not running");
    }

    #[test]
    fn old_clients_read_a_sentence() {
        assert_eq!(report(&Finish::Exited(0), CommandVersion::V3), b"");
        assert_eq!(
            report(&Finish::Exited(2), CommandVersion::V1),
            b"command terminated with non-zero exit code: exit status 2"
        );
    }
}
