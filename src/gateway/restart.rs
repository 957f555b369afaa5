//! Settings that a reload cannot apply, because sockets, threads and files were made from them at start-up.
//!
//! They keep the values in force until a restart, so that everything else sees what is in force. Pure.

use crate::config::Config;

/// Puts the values in force back into a new configuration where only a restart can change them. Returns the keys that
/// wait for a restart.
pub(super) fn keep_in_force(new: &mut Config, in_force: &Config) -> Vec<&'static str> {
    let mut kept = KeptValues { waiting: Vec::new() };
    let (listen, now) = (&mut new.listen, &in_force.listen);
    kept.keep("listen.data", &mut listen.data, &now.data);
    kept.keep("listen.admin", &mut listen.admin, &now.admin);
    kept.keep("listen.workers", &mut listen.workers, &now.workers);
    // The files of a TLS listener can be changed; whether it speaks TLS cannot.
    if listen.tls.is_some() != now.tls.is_some() {
        kept.keep("listen.tls", &mut listen.tls, &now.tls);
    }
    if listen.admin_tls.is_some() != now.admin_tls.is_some() {
        kept.keep("listen.admin_tls", &mut listen.admin_tls, &now.admin_tls);
    }
    kept.keep("state.dir", &mut new.state.dir, &in_force.state.dir);
    let (log, now) = (&mut new.log, &in_force.log);
    kept.keep("log.exchanges", &mut log.exchanges, &now.exchanges);
    kept.keep("log.on_full", &mut log.on_full, &now.on_full);
    kept.keep("cache.memory", &mut new.cache.memory, &in_force.cache.memory);
    kept.waiting
}

struct KeptValues {
    waiting: Vec<&'static str>,
}

impl KeptValues {
    fn keep<T: Clone + PartialEq>(&mut self, key: &'static str, new: &mut T, in_force: &T) {
        if new != in_force {
            new.clone_from(in_force);
            self.waiting.push(key);
        }
    }
}
