// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a kernel must be configured with (`images/recipes/kconfig.toml`), and what a given configuration lacks.

use crate::error::Result;
use crate::recipe;
use serde::Deserialize;

/// What an option is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// No guest without it.
    Boot,
    /// Cases are skipped or say less without it.
    Library,
    /// Without it there is no driver, and cases that need it are skipped.
    Driver,
}

/// One option of a kernel's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelOption {
    /// Without `CONFIG_`.
    pub name: String,
    /// Its name in older kernels.
    #[serde(default)]
    pub formerly: Option<String>,
    /// What for.
    pub need: Need,
    /// What it must be set to.
    #[serde(default = "built_in")]
    pub value: String,
    /// `=m` is enough.
    #[serde(default)]
    pub module: bool,
    /// In a sentence.
    pub why: String,
}

fn built_in() -> String {
    "y".to_owned()
}

/// All of them, in the order in which they are told.
pub fn kernel_options() -> Result<Vec<KernelOption>> {
    recipe::kconfig()
}

impl KernelOption {
    /// The line of a configuration fragment.
    pub fn line(&self) -> String {
        format!("CONFIG_{}={}", self.name, self.value)
    }

    /// Does a configuration have it?
    pub fn is_set(&self, config: &str) -> bool {
        let enough = |value: &str| value == self.value || self.module && value == "m";
        let names = || std::iter::once(&self.name).chain(&self.formerly);
        config
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("CONFIG_")?.split_once('='))
            .any(|(name, value)| names().any(|known| known == name) && enough(value))
    }
}

/// What a configuration lacks for this need.
pub(crate) fn missing(config: &str, need: Need) -> Result<Vec<KernelOption>> {
    let mut options = kernel_options()?;
    options.retain(|option| option.need == need && !option.is_set(config));
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_set_by_its_whole_name_and_as_a_module_only_where_that_is_enough() {
        let option = |name: &str, module| KernelOption {
            name: name.to_owned(),
            formerly: (name == "SYSCTL").then(|| "PROC_SYSCTL".to_owned()),
            need: Need::Boot,
            value: if name == "SCSI_DEBUG" { "m".to_owned() } else { built_in() },
            module,
            why: String::new(),
        };
        let config = "CONFIG_VIRTIO_BLK_X=y\nCONFIG_VIRTIO_BLK=m\nCONFIG_TTY=m\n# CONFIG_PCI is not set\nCONFIG_UNIX=y\r\n";
        assert!(option("VIRTIO_BLK", true).is_set(config) && option("UNIX", false).is_set(config));
        assert!(!option("TTY", false).is_set(config) && !option("PCI", true).is_set(config));
        assert!(!option("VIRTIO", true).is_set(config) && !option("SYSCTL", false).is_set(config));
        assert!(option("SYSCTL", false).is_set("CONFIG_PROC_SYSCTL=y"));
        let only_as_module = option("SCSI_DEBUG", false);
        assert_eq!(only_as_module.line(), "CONFIG_SCSI_DEBUG=m");
        assert!(
            only_as_module.is_set("CONFIG_SCSI_DEBUG=m") && !only_as_module.is_set("CONFIG_SCSI_DEBUG=y")
        );
    }

    #[test]
    fn each_option_is_named_once_and_says_why() {
        let options = kernel_options().unwrap();
        let mut names: Vec<_> = options.iter().map(|option| option.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), options.len());
        assert!(options.iter().all(|option| !option.why.is_empty() && !option.name.starts_with("CONFIG_")));
        let missing = missing("CONFIG_MODULES=y\n", Need::Driver).unwrap();
        assert_eq!(missing.iter().map(KernelOption::line).collect::<Vec<_>>(), ["CONFIG_RUST=y"]);
    }

    #[test]
    fn each_file_system_on_a_disk_is_asked_for() {
        let options = kernel_options().unwrap();
        for fs in longpin_proto::filesystem::ALL.iter().filter(|fs| fs.device().is_some()) {
            let name = format!("{}_FS", fs.mounts().to_uppercase());
            assert!(options.iter().any(|option| option.name == name), "kconfig.toml has no {name}");
        }
    }

    /// What the agent loads before it can say a word must be asked for here.
    #[test]
    fn what_no_guest_boots_without_is_asked_for() {
        let names = |need| {
            let options = kernel_options().unwrap().into_iter().filter(move |option| option.need == need);
            options.map(|option| option.name.to_lowercase()).collect::<Vec<_>>()
        };
        let boot = names(Need::Boot);
        for module in recipe::initramfs().unwrap().indispensable {
            assert!(boot.iter().any(|name| *name == module || *name == format!("{module}_fs")), "{module}");
        }
    }
}
