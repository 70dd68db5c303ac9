// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Places in code as the kernel prints them, for a look into debug information: `ext4_dirty_folio+0x2c/0x50 [ext4]`.

use std::fmt;

/// A place in a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    /// Name in the symbol table.
    pub symbol: String,
    /// Bytes from its beginning.
    pub offset: u64,
    /// Bytes up to the next symbol.
    pub size: u64,
    /// None: it is in the kernel itself.
    pub module: Option<String>,
    /// The place is where a call returns to: the call is before it.
    pub returns: bool,
}

impl Frame {
    /// The first place in a text.
    pub fn parse(text: &str, returns: bool) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (symbol, offset, size) = words.by_ref().find_map(place)?;
        // `[ext4]`, or `[ext4 6ee71e3...]` where the kernel knows what it was built from.
        let module = words.next().and_then(|word| word.strip_prefix('['));
        let module = module.map(|word| word.trim_end_matches([']', ','])).filter(|name| !name.is_empty());
        Some(Self { symbol: symbol.to_owned(), offset, size, module: module.map(str::to_owned), returns })
    }

    /// Of the instruction that was under way, from the beginning of the function.
    pub fn instruction(&self) -> u64 {
        self.offset.saturating_sub(u64::from(self.returns))
    }
}

/// `ext4_dirty_folio+0x2c/0x50,`.
fn place(word: &str) -> Option<(&str, u64, u64)> {
    let (symbol, rest) = word.split_once("+0x")?;
    let (offset, size) = rest.split_once("/0x")?;
    let hex = |digits: &str| u64::from_str_radix(digits.trim_end_matches([',', ')']), 16).ok();
    let good = |c: char| c.is_ascii_alphanumeric() || "_$.".contains(c);
    (!symbol.is_empty() && symbol.chars().all(good)).then_some((symbol, hex(offset)?, hex(size)?))
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}/{:#x}", self.symbol, self.offset, self.size)?;
        match &self.module {
            Some(module) => write!(f, " [{module}]"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_the_kernel_prints_it_and_printed_so() {
        for (text, printed) in [
            ("folio_mark_dirty_lock+0x23/0x40", "folio_mark_dirty_lock+0x23/0x40"),
            ("ext4_dirty_folio+0x2c/0x50 [ext4]", "ext4_dirty_folio+0x2c/0x50 [ext4]"),
            ("x.isra.0+0x2c/0x50 [ext4 0123abcd]", "x.isra.0+0x2c/0x50 [ext4]"),
            ("WARNING: fs/a.c:1 at f+0x2/0x5 [m], CPU#0: agent/97", "f+0x2/0x5 [m]"),
            ("do_idle+0x0/0x10 kernel/sched", "do_idle+0x0/0x10"),
        ] {
            assert_eq!(Frame::parse(text, true).map(|it| it.to_string()).as_deref(), Some(printed), "{text}");
        }
        for text in ["", "RIP: 0033:0x7fb5b690236b", "f+0x2", "f+0xz/0x5", "+0x1/0x2", "a b+0x/0x"] {
            assert_eq!(Frame::parse(text, true), None, "{text}");
        }
    }

    #[test]
    fn a_return_address_stands_behind_its_call() {
        let at =
            |offset: &str, returns| Frame::parse(&format!("f+{offset}/0x50"), returns).unwrap().instruction();
        assert_eq!((at("0x2c", true), at("0x2c", false), at("0x0", true)), (0x2b, 0x2c, 0));
    }
}
