//! Which names the lab's name server answers wrongly, and for whom. Pure state, depends on nothing of the lab.
//!
//! Central types: [`NameTroubles`] (all of a lab), [`NameTrouble`] (one cause). Contract: the troubles of an address end with
//! the pod that has it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use rand::RngExt;

/// Trouble with some names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameTrouble {
    /// Names, with `?` for one character anywhere and `*` for the rest at the end; none means every name.
    pub patterns: Vec<String>,
    /// Answers are addresses by chance; otherwise they are errors.
    pub random: bool,
}

/// What is answered instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server failed.
    Error,
    /// Some address.
    At(Ipv4Addr),
}

type ByOwner = BTreeMap<String, NameTrouble>;

/// The troubles of all pods of a lab.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameTroubles {
    by_address: Arc<Mutex<HashMap<Ipv4Addr, ByOwner>>>,
}

impl NameTroubles {
    /// Begins or ends a trouble of `owner` for one pod.
    pub(crate) fn set(&self, address: Ipv4Addr, owner: &str, trouble: Option<NameTrouble>) {
        let mut all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let of_pod = all.entry(address).or_default();
        match trouble {
            Some(trouble) => of_pod.insert(owner.to_owned(), trouble),
            None => of_pod.remove(owner),
        };
        if of_pod.is_empty() {
            all.remove(&address);
        }
    }

    /// Ends everything for an address.
    pub(crate) fn forget(&self, address: Ipv4Addr) {
        let mut all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&address);
    }

    /// What this pod is answered instead of the truth about a name (without the last dot).
    pub(crate) fn of(&self, from: IpAddr, name: &str) -> Option<Trouble> {
        let IpAddr::V4(from) = from else { return None };
        let all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let of_pod = all.get(&from)?;
        let trouble = of_pod.values().find(|trouble| trouble.is_about(name))?;
        Some(if trouble.random {
            Trouble::At(Ipv4Addr::from(rand::rng().random::<u32>()))
        } else {
            Trouble::Error
        })
    }
}

impl NameTrouble {
    fn is_about(&self, name: &str) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|pattern| fits(pattern, name))
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    let pattern = pattern.trim_end_matches('.').to_ascii_lowercase();
    let (head, open) = match pattern.strip_suffix('*') {
        Some(head) => (head, true),
        None => (pattern.as_str(), false),
    };
    let mut letters = name.chars();
    let begins = head
        .chars()
        .all(|wanted| letters.next().is_some_and(|found| wanted == '?' || wanted == found));
    begins && (open || letters.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_as_upstream_says() {
        for (pattern, name, expected) in [
            ("redis.shop.*", "redis.shop.svc.cluster.local", true),
            ("api?.example.org", "api1.example.org", true),
            ("api?.example.org", "api.example.org", false),
            ("example.org", "www.example.org", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_trouble_is_one_pods_and_ends_with_it() {
        let troubles = NameTroubles::default();
        let (here, there) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let trouble = NameTrouble {
            patterns: Vec::new(),
            random: false,
        };
        troubles.set(here, "a", Some(trouble.clone()));
        troubles.set(here, "b", Some(trouble));
        assert_eq!(troubles.of(IpAddr::V4(here), "x"), Some(Trouble::Error));
        assert_eq!(troubles.of(IpAddr::V4(there), "x"), None);
        troubles.set(here, "a", None);
        assert_eq!(troubles.of(IpAddr::V4(here), "x"), Some(Trouble::Error), "the other's");
        troubles.forget(here);
        assert_eq!(troubles.of(IpAddr::V4(here), "x"), None);
    }
}
