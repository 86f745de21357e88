//! The profiles in force.
//!
//! They are replaced all at once, and whoever has taken one keeps it: each certificate is judged, signed
//! and recorded by the profile that its request, or its row of a batch, began with.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::pki::profile::Profile;

/// Profiles by name.
pub struct Profiles(ArcSwap<BTreeMap<String, Arc<Profile>>>);

impl Profiles {
    /// These are in force.
    #[must_use]
    pub fn new(profiles: &[Arc<Profile>]) -> Self {
        Self(ArcSwap::from_pointee(by_name(profiles)))
    }

    /// The profile of this name, as it is now.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Profile>> {
        self.0.load().get(name).cloned()
    }

    /// All, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Profile>> {
        self.0.load().values().cloned().collect()
    }

    /// From now on these are in force, and no others.
    pub fn replace(&self, profiles: &[Arc<Profile>]) {
        self.0.store(Arc::new(by_name(profiles)));
    }
}

fn by_name(profiles: &[Arc<Profile>]) -> BTreeMap<String, Arc<Profile>> {
    let named = |profile: &Arc<Profile>| (profile.name.clone(), Arc::clone(profile));
    profiles.iter().map(named).collect()
}
