// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Syntax of one step: `do` names it, the other keys are its parameters. Names have defaults, so that a scenario with
//! one file, one mapping, one region and one program need not name them.

use super::fields::{Fault, Fields};
use super::matrix::{Pin, Release};
use super::parse::condition;
use super::step::{Act, Against, Backed, Pages, Step};
use longpin_proto::agent::{Access, PinMode};

const FILE: &str = "a";
const MAP: &str = "m";
const REGION: &str = "r";
const PROGRAM: &str = "p";
/// Shortest deadline of a step: a busy host under emulation can hold up any step for a second.
const MIN_DEADLINE_MS: u64 = 1000;

vocabulary! {
    /// Names of steps.
    enum Verb {
        /// `Act::Affinity`.
        Affinity = "affinity",
        /// `Act::Allocate`.
        Allocate = "allocate",
        /// `Act::Close`.
        Close = "close",
        /// `Act::Compare`.
        Compare = "compare",
        /// `Act::Create`.
        Create = "create",
        /// `Act::CreateHole`.
        CreateHole = "create-hole",
        /// `Act::Dma`.
        Dma = "dma",
        /// `Act::DmaStop`.
        DmaStop = "dma-stop",
        /// `Act::DmaWait`.
        DmaWait = "dma-wait",
        /// `Act::Exec`.
        Exec = "exec",
        /// `Act::Fsync`.
        Fsync = "fsync",
        /// `Act::Map`.
        Map = "map",
        /// `Act::Mkfs`.
        Mkfs = "mkfs",
        /// `Act::Mount`.
        Mount = "mount",
        /// `Act::Open`.
        Open = "open",
        /// `Act::PageState`.
        PageState = "page-state",
        /// `Act::Pageout`.
        Pageout = "pageout",
        /// `Act::Pin`.
        Pin = "pin",
        /// `Act::PokeDevice`.
        PokeDevice = "poke-device",
        /// `Act::ProveClean`.
        ProveClean = "prove-clean",
        /// `Act::ProveDma`.
        ProveDma = "prove-dma",
        /// `Act::Punch`.
        Punch = "punch",
        /// `Act::QueryRegion`.
        QueryRegion = "query-region",
        /// `Act::ReadMapping`.
        ReadMapping = "read-mapping",
        /// `Act::Reflink`.
        Reflink = "reflink",
        /// `Act::Release`.
        Release = "release",
        /// `Act::Remount`.
        Remount = "remount",
        /// `Act::Snapshot`.
        Snapshot = "snapshot",
        /// `Act::Store`.
        Store = "store",
        /// `Act::Sync`.
        Sync = "sync",
        /// `Act::Syncfs`.
        Syncfs = "syncfs",
        /// `Act::Touch`.
        Touch = "touch",
        /// `Act::Truncate`.
        Truncate = "truncate",
        /// `Act::Umount`.
        Umount = "umount",
        /// `Act::Unmap`.
        Unmap = "unmap",
        /// `Act::Write`.
        Write = "write",
        /// `Act::WriteSys`.
        WriteSys = "write-sys",
        /// `Act::ZeroRange`.
        ZeroRange = "zero-range",
    }
}

/// Names of all steps.
pub fn verbs() -> impl Iterator<Item = &'static str> {
    Verb::ALL.iter().map(|verb| verb.as_str())
}

/// A step. `default_pages` is the length of a new file that says none.
pub fn step(fields: &mut Fields<'_, '_>, default_pages: u64) -> Result<Step, Fault> {
    let verb = one(fields, "do", "step", Verb::parse, Verb::list)?.ok_or_else(|| fields.missing("do"))?;
    fields.what = format!("step `{verb}`");
    let when = match fields.table("when", "condition")? {
        Some(mut axes) => {
            let when = condition(&mut axes)?;
            axes.finish()?;
            when
        }
        None => Default::default(),
    };
    let deadline_ms = match fields.number("deadline_ms")? {
        Some(at) if at.value < MIN_DEADLINE_MS => {
            let text = format!(
                "`deadline_ms` = {} is too short to be told from load; use {MIN_DEADLINE_MS} or more",
                at.value
            );
            return Err(fields.fault_at(at.line, text));
        }
        other => other.map(|at| at.value),
    };
    Ok(Step { line: fields.line, when, deadline_ms, action: act(verb, fields, default_pages)? })
}

fn one<T>(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    noun: &str,
    parse: impl Fn(&str) -> Option<T>,
    list: impl Fn() -> String,
) -> Result<Option<T>, Fault> {
    match fields.str(key)? {
        None => Ok(None),
        Some(at) => match parse(at.value) {
            Some(value) => Ok(Some(value)),
            None => {
                let text = format!("{noun} `{}` is unknown; use one of {}", at.value, list());
                Err(fields.fault_at(at.line, text))
            }
        },
    }
}

fn act(verb: Verb, f: &mut Fields<'_, '_>, default_pages: u64) -> Result<Act, Fault> {
    Ok(match verb {
        Verb::Affinity => Act::Affinity { cpu: f.small("cpu")? },
        Verb::Allocate => Act::Allocate { handle: handle(f)?, pages: pages(f)? },
        Verb::Close => Act::Close { handle: handle(f)? },
        Verb::Compare => Act::Compare { file: file(f)?, against: against(f)? },
        Verb::Create => Act::Create {
            file: file(f)?,
            pages: length(f, default_pages)?,
            generation: f.number_or("generation", 1)?,
        },
        Verb::CreateHole => Act::CreateHole { file: file(f)?, pages: length(f, default_pages)? },
        Verb::Dma => Act::Dma {
            program: f.str_or("program", PROGRAM)?,
            region: region(f)?,
            pages: pages(f)?,
            generation: need_number(f, "generation")?,
            passes: f.number_or("passes", 1)?,
            wait: f.flag_or("wait", true)?,
        },
        Verb::DmaStop => Act::DmaStop { program: f.str_or("program", PROGRAM)? },
        Verb::DmaWait => Act::DmaWait { program: f.str_or("program", PROGRAM)? },
        Verb::Exec => exec(f)?,
        Verb::Fsync => Act::Fsync { handle: handle(f)?, data_only: f.flag_or("data_only", false)? },
        Verb::Map => map_act(f)?,
        Verb::Mkfs => Act::Mkfs { args: f.strings("args")?.into_iter().map(|at| at.value).collect() },
        Verb::Mount => Act::Mount,
        Verb::Open => open(f)?,
        Verb::PageState => Act::PageState { handle: handle(f)? },
        Verb::Pageout => Act::Pageout { map: map(f)?, pages: pages(f)? },
        Verb::Pin => Act::Pin { region: region(f)?, map: map(f)?, pages: pages(f)?, mode: pin_mode(f)? },
        Verb::PokeDevice => {
            Act::PokeDevice { file: file(f)?, page: f.number_or("page", 0)?, byte: f.byte_or("byte", 0xEE)? }
        }
        Verb::ProveClean => Act::ProveClean { handle: handle(f)? },
        Verb::ProveDma => Act::ProveDma { program: f.str_or("program", PROGRAM)? },
        Verb::Punch => Act::Punch { handle: handle(f)?, pages: pages(f)? },
        Verb::QueryRegion => Act::QueryRegion { region: region(f)? },
        Verb::ReadMapping => Act::ReadMapping { map: map(f)? },
        Verb::Reflink => Act::Reflink { from: f.str_or("from", FILE)?, to: f.str_or("to", "b")? },
        Verb::Release => Act::Release {
            region: region(f)?,
            mode: one(f, "mode", "release mode", Release::parse, Release::list)?,
        },
        Verb::Remount => Act::Remount,
        Verb::Snapshot => Act::Snapshot { file: file(f)? },
        Verb::Store => {
            Act::Store { map: map(f)?, pages: pages(f)?, generation: need_number(f, "generation")? }
        }
        Verb::Sync => Act::Sync,
        Verb::Syncfs => Act::Syncfs,
        Verb::Touch => Act::Touch { map: map(f)?, pages: pages(f)?, access: access(f)? },
        Verb::Truncate => Act::Truncate { handle: handle(f)?, pages: need_number(f, "pages")? },
        Verb::Umount => Act::Umount,
        Verb::Unmap => Act::Unmap { map: map(f)? },
        Verb::Write => Act::Write {
            file: file(f)?,
            pages: pages(f)?,
            generation: need_number(f, "generation")?,
            direct: f.flag_or("direct", false)?,
        },
        Verb::WriteSys => Act::WriteSys {
            path: f.need_str("path")?.value.to_owned(),
            value: f.need_str("value")?.value.to_owned(),
        },
        Verb::ZeroRange => Act::ZeroRange { handle: handle(f)?, pages: pages(f)? },
    })
}

fn file(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("file", FILE)
}

/// A handle has its file's name unless `open` gave it another.
fn handle(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("file", FILE)
}

fn map(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("map", MAP)
}

fn region(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    f.str_or("region", REGION)
}

/// Pages of a new file.
fn length(f: &mut Fields<'_, '_>, default_pages: u64) -> Result<u64, Fault> {
    Ok(pages_or_all(f)?.unwrap_or(default_pages))
}

fn need_number(f: &mut Fields<'_, '_>, key: &'static str) -> Result<u64, Fault> {
    f.number(key)?.map(|at| at.value).ok_or_else(|| f.missing(key))
}

fn pages(f: &mut Fields<'_, '_>) -> Result<Pages, Fault> {
    Ok(Pages { first: f.number_or("first_page", 0)?, count: pages_or_all(f)? })
}

fn pages_or_all(f: &mut Fields<'_, '_>) -> Result<Option<u64>, Fault> {
    match f.number("pages")? {
        Some(at) if at.value == 0 => {
            Err(f.fault_at(at.line, format!("{}: `pages` = 0 is empty; use 1 or more", f.what)))
        }
        other => Ok(other.map(|at| at.value)),
    }
}

fn pin_mode(f: &mut Fields<'_, '_>) -> Result<Option<PinMode>, Fault> {
    one(f, "mode", "pin mode", |word| Pin::parse(word).and_then(Pin::mode), Pin::list)
}

fn access(f: &mut Fields<'_, '_>) -> Result<Access, Fault> {
    let parse = |word: &str| match word {
        "read" => Some(Access::Read),
        "write" => Some(Access::Write),
        _ => None,
    };
    let access = one(f, "access", "access", parse, || "read, write".into())?;
    access.ok_or_else(|| f.missing("access"))
}

fn against(f: &mut Fields<'_, '_>) -> Result<Against, Fault> {
    let parse = |word: &str| match word {
        "writes" => Some(Against::Writes),
        "snapshot" => Some(Against::Snapshot),
        _ => None,
    };
    Ok(one(f, "against", "comparison", parse, || "writes, snapshot".into())?.unwrap_or(Against::Writes))
}

fn open(f: &mut Fields<'_, '_>) -> Result<Act, Fault> {
    let file = file(f)?;
    Ok(Act::Open {
        handle: f.str_or("as", &file)?,
        file,
        write: f.flag_or("write", true)?,
        direct: f.flag_or("direct", false)?,
    })
}

fn map_act(f: &mut Fields<'_, '_>) -> Result<Act, Fault> {
    let parse = |word: &str| ["file", "anonymous", "hugetlb"].into_iter().find(|known| *known == word);
    let backing = one(f, "backing", "backing", parse, || "file, anonymous, hugetlb".into())?;
    let handle = file(f)?;
    Ok(Act::Map {
        map: map(f)?,
        backed: match backing.unwrap_or("file") {
            "anonymous" => Backed::Anonymous,
            "hugetlb" => Backed::Hugetlb,
            _ => Backed::File(handle),
        },
        pages: pages(f)?,
        shared: f.flag_or("shared", true)?,
        write: f.flag_or("write", true)?,
    })
}

fn exec(f: &mut Fields<'_, '_>) -> Result<Act, Fault> {
    let argv: Vec<String> = f.strings("argv")?.into_iter().map(|at| at.value).collect();
    if argv.is_empty() {
        return Err(f.missing("argv"));
    }
    Ok(Act::Exec { argv, timeout_ms: f.small("timeout_ms")?.unwrap_or(30_000) })
}
