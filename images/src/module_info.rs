// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a module file says about itself: the `NAME=VALUE` strings of its .modinfo section (include/linux/moduleinfo.h).

/// Value of the first field of this name.
pub(crate) fn field<'a>(module: &'a [u8], name: &str) -> Option<&'a str> {
    let mut strings = module.split(|&byte| byte == 0);
    strings.find_map(|string| {
        let value = string.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()
    })
}

/// Names of its parameters, in no order.
pub(crate) fn params(module: &[u8]) -> Vec<&str> {
    let strings = module.split(|&byte| byte == 0);
    let types = strings.filter_map(|string| std::str::from_utf8(string.strip_prefix(b"parmtype=")?).ok());
    types.filter_map(|text| Some(text.split_once(':')?.0)).collect()
}

/// Modules that it needs directly, as their names are written in files.
pub(crate) fn depends(module: &[u8]) -> Vec<String> {
    let names = field(module, "depends").unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &[u8] =
        b"\x7fELF\0x=1\0license=GPL\0depends=mbcache,jbd2\0vermagic=7.3.4 SMP preempt\0name=ext4\0";

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field(MODULE, "vermagic"), Some("7.3.4 SMP preempt"));
        assert_eq!(field(MODULE, "name"), Some("ext4"));
        assert_eq!(field(MODULE, "magic"), None);
    }

    #[test]
    fn parameters_are_those_that_have_a_type() {
        let module = b"\0parm=ports:which ports\0parmtype=ports:array of int\0parmtype=debug:bool\0";
        assert_eq!(params(module), ["ports", "debug"]);
        assert!(params(MODULE).is_empty());
    }

    #[test]
    fn dependencies_are_a_list_that_may_be_empty() {
        assert_eq!(depends(MODULE), ["mbcache", "jbd2"]);
        assert!(depends(b"depends=\0").is_empty());
        assert!(depends(b"").is_empty());
    }
}
