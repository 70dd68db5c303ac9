// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Why a step ended without a fact: the kernel refused a call (itself a fact), or the step could not be carried out.

use longpin_proto::agent::Outcome;
use longpin_proto::facts::Errno;

/// End of a step that has no fact to state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepError {
    /// The kernel refused `call` with this errno.
    Refused(Errno),
    /// Infrastructure: no such name, a helper program that failed, a bug.
    Failed(String),
}

impl std::fmt::Display for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(errno) => write!(f, "{}: {}", errno.call, errno.name),
            Self::Failed(message) => f.write_str(message),
        }
    }
}

impl From<StepError> for Outcome {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Refused(errno) => Self::Refused(errno),
            StepError::Failed(message) => Self::Failed { message },
        }
    }
}

/// `Err(Failed)` with a formatted message.
macro_rules! failed {
    ($($arg:tt)*) => { Err($crate::error::StepError::Failed(format!($($arg)*))) };
}
pub(crate) use failed;

/// Turns the errno of a system call into a [`StepError`].
pub trait OrRefused<T> {
    /// `call` names the system call as the fact will.
    fn or_refused(self, call: &str) -> Result<T, StepError>;
    /// For calls that prepare a step: their refusal says nothing about the kernel under test.
    fn or_failed(self, what: &str) -> Result<T, StepError>;
}

impl<T> OrRefused<T> for Result<T, rustix::io::Errno> {
    fn or_refused(self, call: &str) -> Result<T, StepError> {
        self.map_err(|errno| refused(errno.raw_os_error(), call))
    }

    fn or_failed(self, what: &str) -> Result<T, StepError> {
        self.map_err(|errno| StepError::Failed(format!("{what}: {}", errno_name(errno.raw_os_error()))))
    }
}

impl<T> OrRefused<T> for std::io::Result<T> {
    fn or_refused(self, call: &str) -> Result<T, StepError> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => refused(errno, call),
            None => StepError::Failed(format!("{call}: {error}")),
        })
    }

    fn or_failed(self, what: &str) -> Result<T, StepError> {
        self.map_err(|error| StepError::Failed(format!("{what}: {error}")))
    }
}

/// The fact "this call was refused".
pub fn refused(errno: i32, call: &str) -> StepError {
    StepError::Refused(Errno { errno, name: errno_name(errno), call: call.to_owned() })
}

/// `EFAULT` for 14; numbers without a name keep the number.
pub fn errno_name(errno: i32) -> String {
    match nix::errno::Errno::from_raw(errno) {
        nix::errno::Errno::UnknownErrno => format!("E{errno}"),
        known => format!("{known:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_number_name_and_call() {
        let result: Result<(), _> = Err(rustix::io::Errno::FAULT);
        let Err(StepError::Refused(errno)) = result.or_refused("fsync") else { panic!("not a refusal") };
        assert_eq!((errno.errno, errno.name.as_str(), errno.call.as_str()), (14, "EFAULT", "fsync"));
    }

    #[test]
    fn file_system_corruption_and_unknown_numbers_have_names() {
        assert_eq!(errno_name(libc::EUCLEAN), "EUCLEAN");
        assert_eq!(errno_name(100_000), "E100000");
    }
}
