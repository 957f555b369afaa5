//! Why there is no connection, and whose fault that is. Pure.
//!
//! What socket(2) and connect(2) return at once was decided by this host, whatever it says: a route that rejects
//! (EHOSTUNREACH, EINVAL), no address family, no free port. What comes later was reported by the network. Only a refused
//! connection is both: one to this host itself is refused at once.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use rustix::io::Errno;

/// Why there is no connection. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// A fault of this host: it says nothing about the other side.
    #[error("{0}")]
    Local(String),
    /// The other side does not exist, refuses connections, or does not respond.
    #[error("{0}")]
    Remote(String),
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name service has answered: there is no such name, or it has no address.
    #[error("{0}")]
    NoAddress(String),
    /// The name service gave no answer, or could not be asked.
    #[error("{0}")]
    Failed(String),
}

impl ConnectError {
    /// The other side has not responded in time.
    pub(crate) fn late() -> Self {
        ConnectError::Remote("it did not open in time".into())
    }

    /// The same error, of a connection to `whom`.
    pub(crate) fn context(self, whom: &str) -> Self {
        match self {
            ConnectError::Local(why) => ConnectError::Local(format!("no connection to {whom}: {why}")),
            ConnectError::Remote(why) => ConnectError::Remote(format!("no connection to {whom}: {why}")),
        }
    }
}

impl LookupError {
    /// No answer within this time.
    pub(super) fn slow(after: Duration) -> Self {
        LookupError::Failed(format!("the name lookup gave no result within {after:.1?}"))
    }
}

/// What an error of socket(2) or connect(2) says. The most telling one is last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ConnectFault {
    /// This host has no local address, port or route for that address, or its own rules forbid it. Also the error for an
    /// IPv6 address on a host without IPv6, so it counts only if it is the same for all addresses of the name.
    NoWayOut,
    /// The other side refuses connections or does not respond, or a router says that it cannot be reached.
    Remote,
    /// This host has run out of descriptors or memory. Had it not, this address might have been the one that works, so it
    /// counts more than what the others came to.
    Exhausted,
}

/// An attempt to connect that failed.
#[derive(Debug)]
pub(super) struct FailedAttempt {
    pub(super) error: io::Error,
    pub(super) fault: ConnectFault,
}

impl FailedAttempt {
    /// socket(2) or connect(2) has returned this error.
    pub(super) fn at_once(error: io::Error) -> Self {
        const OF_THE_OTHER_SIDE: [Errno; 3] = [Errno::CONNREFUSED, Errno::CONNRESET, Errno::TIMEDOUT];
        let fault = match (ConnectFault::of(&error), Errno::from_io_error(&error)) {
            (ConnectFault::Remote, Some(errno)) if !OF_THE_OTHER_SIDE.contains(&errno) => ConnectFault::NoWayOut,
            (fault, _) => fault,
        };
        FailedAttempt { error, fault }
    }

    /// The connection was being opened.
    pub(super) fn later(error: io::Error) -> Self {
        FailedAttempt { fault: ConnectFault::of(&error), error }
    }
}

impl ConnectFault {
    fn of(error: &io::Error) -> Self {
        const EXHAUSTED: [Errno; 6] =
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::NOSPC, Errno::AGAIN];
        const NO_WAY_OUT: [Errno; 5] =
            [Errno::ADDRNOTAVAIL, Errno::NETDOWN, Errno::NETUNREACH, Errno::PERM, Errno::ACCESS];
        match Errno::from_io_error(error) {
            Some(errno) if EXHAUSTED.contains(&errno) => ConnectFault::Exhausted,
            Some(errno) if NO_WAY_OUT.contains(&errno) => ConnectFault::NoWayOut,
            None if error.kind() == ErrorKind::OutOfMemory => ConnectFault::Exhausted,
            _ => ConnectFault::Remote,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        FailedAttempt::later(error).into()
    }
}

impl From<FailedAttempt> for ConnectError {
    fn from(FailedAttempt { error, fault }: FailedAttempt) -> Self {
        match fault {
            ConnectFault::NoWayOut | ConnectFault::Exhausted => ConnectError::Local(error.to_string()),
            ConnectFault::Remote => ConnectError::Remote(error.to_string()),
        }
    }
}

impl From<LookupError> for ConnectError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NoAddress(why) => ConnectError::Remote(why),
            LookupError::Failed(why) => ConnectError::Local(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_this_host_are_told_from_those_of_the_other_side() {
        let of = |errno: Errno| ConnectError::from(io::Error::from(errno));
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::NOSPC,
            Errno::AGAIN,
            Errno::ADDRNOTAVAIL,
            Errno::NETDOWN,
            Errno::NETUNREACH,
            Errno::ACCESS,
            Errno::PERM,
        ] {
            assert!(matches!(of(errno), ConnectError::Local(_)), "{errno:?}");
        }
        for errno in
            [Errno::CONNREFUSED, Errno::CONNRESET, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::AFNOSUPPORT, Errno::PIPE]
        {
            assert!(matches!(of(errno), ConnectError::Remote(_)), "{errno:?}");
        }
        assert!(matches!(ConnectError::from(io::Error::from(ErrorKind::OutOfMemory)), ConnectError::Local(_)));
        assert!(matches!(ConnectError::from(io::Error::other("certificate")), ConnectError::Remote(_)));
    }

    #[test]
    fn what_the_system_returns_at_once_is_a_fault_of_this_host() {
        let of = |errno: Errno| FailedAttempt::at_once(io::Error::from(errno)).fault;
        for errno in [Errno::HOSTUNREACH, Errno::INVAL, Errno::AFNOSUPPORT, Errno::ADDRINUSE, Errno::NETUNREACH] {
            assert_eq!(of(errno), ConnectFault::NoWayOut, "{errno:?}");
        }
        assert_eq!((of(Errno::MFILE), of(Errno::CONNREFUSED)), (ConnectFault::Exhausted, ConnectFault::Remote));
    }

    #[test]
    fn only_an_answer_of_the_name_service_is_about_the_other_side() {
        assert!(matches!(ConnectError::from(LookupError::NoAddress("x".into())), ConnectError::Remote(_)));
        assert!(matches!(ConnectError::from(LookupError::Failed("x".into())), ConnectError::Local(_)));
        assert!(matches!(ConnectError::from(LookupError::slow(Duration::from_secs(5))), ConnectError::Local(_)));
    }
}
