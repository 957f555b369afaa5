//! Settings that a reload cannot apply, because sockets, threads and files were made from them at start-up.
//!
//! They keep the values in force until a restart, so that everything else sees what is in force. Pure.

use crate::config::Config;

/// Puts the values in force back into a new configuration where only a restart can change them. Returns the keys that
/// wait for a restart.
pub(super) fn keep_in_force(new: &mut Config, in_force: &Config) -> Vec<&'static str> {
    let mut kept = KeptValues::default();
    keep(new, in_force, &mut kept);
    kept.waiting
}

/// The keys of settings that only a restart can change: of a table, whether there is one.
pub(crate) fn keys_of_a_restart(config: &Config) -> Vec<&'static str> {
    let mut kept = KeptValues::default();
    keep(&mut config.clone(), config, &mut kept);
    kept.keys
}

fn keep(new: &mut Config, in_force: &Config, kept: &mut KeptValues) {
    let (listen, now) = (&mut new.listen, &in_force.listen);
    kept.keep("listen.data", &mut listen.data, &now.data);
    kept.keep("listen.admin", &mut listen.admin, &now.admin);
    kept.keep("listen.workers", &mut listen.workers, &now.workers);
    // The files of a TLS listener can be changed; whether it speaks TLS cannot.
    kept.keep_presence("listen.tls", &mut listen.tls, &now.tls);
    kept.keep_presence("listen.admin_tls", &mut listen.admin_tls, &now.admin_tls);
    kept.keep("state.dir", &mut new.state.dir, &in_force.state.dir);
    let (log, now) = (&mut new.log, &in_force.log);
    kept.keep("log.exchanges", &mut log.exchanges, &now.exchanges);
    kept.keep("log.on_full", &mut log.on_full, &now.on_full);
    kept.keep("cache.memory", &mut new.cache.memory, &in_force.cache.memory);
}

#[derive(Default)]
struct KeptValues {
    keys: Vec<&'static str>,
    waiting: Vec<&'static str>,
}

impl KeptValues {
    fn keep<T: Clone + PartialEq>(&mut self, key: &'static str, new: &mut T, in_force: &T) {
        self.keys.push(key);
        if new != in_force {
            new.clone_from(in_force);
            self.waiting.push(key);
        }
    }

    fn keep_presence<T: Clone>(&mut self, key: &'static str, new: &mut Option<T>, in_force: &Option<T>) {
        self.keys.push(key);
        if new.is_some() != in_force.is_some() {
            new.clone_from(in_force);
            self.waiting.push(key);
        }
    }
}
