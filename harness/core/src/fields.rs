// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading fields of a TOML table: each is taken once, with its line; what is left over is unknown.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something wrong in a scenario file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct Fault {
    /// File as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Object, value and mend.
    pub message: String,
}

/// Text of the file, to turn spans into lines.
#[derive(Clone, Copy)]
pub struct Source<'t> {
    pub file: &'t str,
    pub text: &'t str,
}

impl Source<'_> {
    pub fn line(&self, span: Range<usize>) -> usize {
        let start = span.start.min(self.text.len());
        1 + self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count()
    }

    pub fn fault(&self, line: usize, message: impl fmt::Display) -> Fault {
        Fault { file: self.file.to_owned(), line, message: message.to_string() }
    }
}

/// A value and the line on which it stands.
#[derive(Debug, Clone)]
pub struct At<T> {
    pub value: T,
    pub line: usize,
}

/// Fields of one table. Every key that is read is noted; `finish` complains of the others.
pub struct Fields<'t, 'i> {
    source: Source<'t>,
    /// What the table describes, for messages: "step `pin`".
    pub what: String,
    /// Line of the table.
    pub line: usize,
    table: &'t DeTable<'i>,
    known: BTreeSet<&'static str>,
}

impl<'t, 'i> Fields<'t, 'i> {
    pub fn new(source: Source<'t>, what: impl Into<String>, line: usize, table: &'t DeTable<'i>) -> Self {
        Self { source, what: what.into(), line, table, known: BTreeSet::new() }
    }

    /// A fault at the table's own line.
    pub fn fault(&self, message: impl fmt::Display) -> Fault {
        self.source.fault(self.line, message)
    }

    /// A fault at another line of the same file.
    pub fn fault_at(&self, line: usize, message: impl fmt::Display) -> Fault {
        self.source.fault(line, message)
    }

    fn raw(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.insert(key);
        self.table.get(key)
    }

    fn mismatch(&self, key: &str, value: &Spanned<DeValue<'i>>, wanted: &str) -> Fault {
        let line = self.source.line(value.span());
        let found = value.get_ref().type_str();
        self.source.fault(line, format!("{}: `{key}` is of type {found}; write {wanted}", self.what))
    }

    pub fn str(&mut self, key: &'static str) -> Result<Option<At<&'t str>>, Fault> {
        let Some(value) = self.raw(key) else { return Ok(None) };
        match value.get_ref().as_str() {
            Some(text) => Ok(Some(At { value: text, line: self.source.line(value.span()) })),
            None => Err(self.mismatch(key, value, "a string in quotes")),
        }
    }

    pub fn str_or(&mut self, key: &'static str, default: &str) -> Result<String, Fault> {
        Ok(self.str(key)?.map_or(default, |at| at.value).to_owned())
    }

    pub fn need_str(&mut self, key: &'static str) -> Result<At<&'t str>, Fault> {
        self.str(key)?.ok_or_else(|| self.missing(key))
    }

    /// A key that must be there is not.
    pub fn missing(&self, key: &str) -> Fault {
        self.fault(format!("{} has no `{key}`; add `{key} = ...`", self.what))
    }

    pub fn number(&mut self, key: &'static str) -> Result<Option<At<u64>>, Fault> {
        let Some(value) = self.raw(key) else { return Ok(None) };
        let line = self.source.line(value.span());
        let Some(integer) = value.get_ref().as_integer() else {
            return Err(self.mismatch(key, value, "a whole number"));
        };
        u64::from_str_radix(integer.as_str(), integer.radix()).map(|n| Some(At { value: n, line })).map_err(
            |_| {
                self.source
                    .fault(line, format!("{}: `{key}` = {integer} is not a number from 0 up", self.what))
            },
        )
    }

    pub fn number_or(&mut self, key: &'static str, default: u64) -> Result<u64, Fault> {
        Ok(self.number(key)?.map_or(default, |at| at.value))
    }

    /// A number of 32 bits.
    pub fn small(&mut self, key: &'static str) -> Result<Option<u32>, Fault> {
        self.bounded(key, u64::from(u32::MAX)).map(|found| found.map(|n| n as u32))
    }

    /// A number of 8 bits.
    pub fn byte_or(&mut self, key: &'static str, default: u8) -> Result<u8, Fault> {
        self.bounded(key, u64::from(u8::MAX)).map(|found| found.map_or(default, |n| n as u8))
    }

    fn bounded(&mut self, key: &'static str, max: u64) -> Result<Option<u64>, Fault> {
        match self.number(key)? {
            Some(At { value, line }) if value > max => {
                let text = format!("{}: `{key}` = {value} is too large; use 0 to {max}", self.what);
                Err(self.source.fault(line, text))
            }
            other => Ok(other.map(|at| at.value)),
        }
    }

    pub fn flag_or(&mut self, key: &'static str, default: bool) -> Result<bool, Fault> {
        let Some(value) = self.raw(key) else { return Ok(default) };
        value.get_ref().as_bool().ok_or_else(|| self.mismatch(key, value, "true or false"))
    }

    /// One string or a list of strings; absent: empty.
    pub fn strings(&mut self, key: &'static str) -> Result<Vec<At<String>>, Fault> {
        let Some(value) = self.raw(key) else { return Ok(Vec::new()) };
        let one = |item: &Spanned<DeValue<'i>>| {
            let text = item.get_ref().as_str()?.to_owned();
            Some(At { value: text, line: self.source.line(item.span()) })
        };
        match value.get_ref() {
            DeValue::String(_) => Ok(one(value).into_iter().collect()),
            DeValue::Array(items) => items
                .iter()
                .map(|item| one(item).ok_or_else(|| self.mismatch(key, item, "strings in quotes")))
                .collect(),
            _ => Err(self.mismatch(key, value, "a string or a list of strings")),
        }
    }

    /// Words of a vocabulary, one or a list. `parse` gives the error's "use one of".
    pub fn words<T>(
        &mut self,
        key: &'static str,
        noun: &str,
        parse: impl Fn(&str) -> Option<T>,
        list: impl Fn() -> String,
    ) -> Result<Vec<T>, Fault> {
        self.strings(key)?
            .into_iter()
            .map(|At { value, line }| {
                parse(&value).ok_or_else(|| {
                    self.source.fault(line, format!("{noun} `{value}` is unknown; use one of {}", list()))
                })
            })
            .collect()
    }

    /// A sub-table, or nothing.
    pub fn table(&mut self, key: &'static str, what: &str) -> Result<Option<Fields<'t, 'i>>, Fault> {
        let Some(value) = self.raw(key) else { return Ok(None) };
        match value.get_ref().as_table() {
            Some(table) => Ok(Some(Fields::new(self.source, what, self.source.line(value.span()), table))),
            None => Err(self.mismatch(key, value, "a table: { key = value }")),
        }
    }

    /// The items of a list.
    pub fn list(&mut self, key: &'static str) -> Result<&'t [Spanned<DeValue<'i>>], Fault> {
        let Some(value) = self.raw(key) else { return Ok(&[]) };
        match value.get_ref() {
            DeValue::Array(items) => Ok(items),
            _ => Err(self.mismatch(key, value, "a list")),
        }
    }

    /// Complain of a key that nobody asked for.
    pub fn finish(self) -> Result<(), Fault> {
        let Some((key, _)) = self.table.iter().find(|(key, _)| !self.known.contains(key.get_ref().as_ref()))
        else {
            return Ok(());
        };
        let known = self.known.iter().copied().collect::<Vec<_>>().join(", ");
        let line = self.source.line(key.span());
        Err(self
            .source
            .fault(line, format!("{} has no key `{}`; it takes {known}", self.what, key.get_ref())))
    }
}
