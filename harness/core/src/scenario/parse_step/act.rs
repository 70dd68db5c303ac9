// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Parameters of each step.

use super::super::fields::{Fault, Fields};
use super::super::matrix::Release;
use super::super::step::{Act, Backed};
use super::disk;
use super::verb::Verb;
use super::words::{
    FILE, PROGRAM, access, against, file, handle, length, map, need_name, need_number, one, pages, pin_mode,
    region,
};

/// The act of a step. `default_pages` is the length of a new file that says none.
pub fn act(verb: Verb, f: &mut Fields<'_, '_>, default_pages: u64) -> Result<Act, Fault> {
    Ok(match verb {
        Verb::Affinity => Act::Affinity { cpu: f.small("cpu")? },
        Verb::Allocate => Act::Allocate { handle: handle(f)?, pages: pages(f)? },
        Verb::AwaitHeld => Act::AwaitHeld { rule: disk::rule(f)?, pages: length(f, default_pages)? },
        Verb::Close => Act::Close { handle: handle(f)? },
        Verb::Compare => Act::Compare { file: file(f)?, against: against(f)? },
        Verb::Create => Act::Create {
            file: file(f)?,
            pages: length(f, default_pages)?,
            generation: f.number_or("generation", 1)?,
        },
        Verb::CreateHole => Act::CreateHole { file: file(f)?, pages: length(f, default_pages)? },
        Verb::DelayWrite => disk::delay_write(f)?,
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
        Verb::DropRule => Act::DropRule { rule: disk::rule(f)? },
        Verb::Exec => exec(f)?,
        Verb::FailWrite => disk::fail_write(f)?,
        Verb::Fsync => Act::Fsync { handle: handle(f)?, data_only: f.flag_or("data_only", false)? },
        Verb::HoldRead => disk::hold_read(f)?,
        Verb::HoldWrite => disk::hold_write(f)?,
        Verb::Join => Act::Join { job: need_name(f, "job")? },
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
        Verb::PowerCut => Act::PowerCut { in_flight: disk::in_flight(f)? },
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
        Verb::ReleaseWrite => Act::ReleaseHeld { rule: disk::rule(f)? },
        Verb::Remount => Act::Remount,
        Verb::Restore => Act::Restore,
        Verb::Settle => Act::Settle { job: need_name(f, "job")? },
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
        Verb::UseDevice => Act::UseDevice { path: device(f)? },
        Verb::Write => Act::Write {
            file: file(f)?,
            pages: pages(f)?,
            generation: need_number(f, "generation")?,
            direct: f.flag_or("direct", false)?,
        },
        Verb::LoadModule => {
            Act::LoadModule { module: need_name(f, "module")?, params: f.str_or("params", "")? }
        }
        Verb::UnloadModule => Act::UnloadModule { module: need_name(f, "module")? },
        Verb::WriteSys => Act::WriteSys { path: need_name(f, "path")?, value: need_name(f, "value")? },
        Verb::ZeroRange => Act::ZeroRange { handle: handle(f)?, pages: pages(f)? },
    })
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
    Ok(Act::Exec {
        argv,
        timeout_ms: f.small("timeout_ms")?.unwrap_or(30_000),
        verifies: f.flag_or("verifies", false)?,
    })
}

fn device(f: &mut Fields<'_, '_>) -> Result<String, Fault> {
    let path = f.need_str("path")?;
    match path.value.strip_prefix("/dev/") {
        Some(name) if !name.is_empty() => Ok(path.value.to_owned()),
        _ => {
            let text = format!("`{}` is no block device; write a path below /dev/", path.value);
            Err(f.fault_at(path.line, text))
        }
    }
}
