//! Who does a fault, and whether they can.
//!
//! Depends on the rest of `experiment` and on `fault`. Contract: what passes can be asked of its injector, as far as a file can tell.

use super::fault_file::FaultFile;
use super::resolve::Resolver;
use crate::fault::{FaultKind, Injector};

impl Resolver<'_> {
    /// Whether the injector can do it.
    pub(super) fn injector(&mut self, pointer: &str, file: &FaultFile, kind: &FaultKind, injector: Injector) {
        let at = self.at(&format!("{pointer}/injector"));
        let own = own_injector(kind);
        if let Some(own) = own
            && own != injector_word(file).unwrap_or(own)
        {
            let title = if own == Injector::Litmus {
                "Litmus"
            } else {
                "Chaos Mesh"
            };
            let word = kind.word();
            let (message, help) = if kind.only_by_chaos_mesh() {
                let help = "leave injector out: Chaos Mesh does it";
                (format!("nobody but {title} can do {}", kind.with_article()), help)
            } else {
                let message = format!("a {word} fault is an object of {title}: nobody else can do it");
                (message, "leave injector out")
            };
            self.error("injector", at, message, Some(help));
            return;
        }
        let (why, help) = match injector {
            Injector::Direct => return,
            Injector::ChaosMesh => (crate::fault::chaos_mesh_object(kind).err(), "use injector: direct"),
            Injector::Litmus => (crate::fault::litmus_experiment(kind).err(), "use injector: direct"),
        };
        match (why, own) {
            (Some(why), Some(_)) => {
                let place = self.places.key(&format!("{pointer}/{}", kind.word()));
                self.error("injector", place, why, None);
            }
            (Some(why), None) => self.error("injector", at, why, Some(help)),
            (None, _) => {}
        }
    }
}

/// Who alone can do it: an object of one injector's own needs no word for it.
pub(super) fn own_injector(kind: &FaultKind) -> Option<Injector> {
    match kind {
        FaultKind::ChaosMesh { .. } => Some(Injector::ChaosMesh),
        FaultKind::Litmus { .. } => Some(Injector::Litmus),
        other => other.only_by_chaos_mesh().then_some(Injector::ChaosMesh),
    }
}

/// Who is to do it, when the file says so.
pub(super) fn injector_word(file: &FaultFile) -> Option<Injector> {
    match file.injector.as_deref()? {
        "chaos-mesh" => Some(Injector::ChaosMesh),
        "litmus" => Some(Injector::Litmus),
        _ => Some(Injector::Direct),
    }
}
