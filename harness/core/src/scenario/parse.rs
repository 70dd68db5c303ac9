// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Syntax of a scenario file: TOML to [`Scenario`]. Faults of steps and rows are collected, so that one look at the
//! messages mends the whole file.

use super::{Expectation, MachineNeeds, RaceRow, SCHEMA, Scenario};
use crate::fields::{At, Fault, Fields, Source};
use crate::matrix::{Flavour, Matrix, Pin, Release, condition};
use crate::steps::Step;
use crate::words::Observation;
use longpin_proto::filesystem::FileSystem;
use longpin_wire::{dma, stamp};
use std::collections::BTreeSet;
use toml::de::{DeTable, DeValue};

/// Pages of a file that says nothing else: large enough for several folios, small enough to read in a case.
const DEFAULT_PAGES: u64 = 16;

/// Parse a whole file.
pub fn document(file: &str, text: &str) -> Result<Scenario, Vec<Fault>> {
    let source = Source { file, text };
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| source.line(span));
        vec![source.fault(line, format!("not valid TOML: {}", error.message().replace('\n', "; ")))]
    })?;
    let mut fields = Fields::new(source, "scenario", 1, table.get_ref());
    let mut faults = Vec::new();
    schema(source, &mut fields).map_err(|fault| vec![fault])?;
    let head = keep(&mut faults, head(source, &mut fields));
    let matrix = keep(&mut faults, matrix(source, &mut fields));
    let pages = head.as_ref().map_or(DEFAULT_PAGES, |head| head.pages);
    let steps = items(&mut faults, source, &mut fields, "step", |fields| Step::parse(fields, pages));
    let expect = items(&mut faults, source, &mut fields, "expect", expectation);
    // A head that was given up half-way has not asked for all its keys.
    if head.is_some() && matrix.is_some() {
        keep(&mut faults, fields.finish());
    }
    match (head, matrix) {
        (Some(head), Some(matrix)) if faults.is_empty() => Ok(Scenario { matrix, steps, expect, ..head }),
        _ => {
            faults.sort_by_key(|fault| fault.line);
            Err(faults)
        }
    }
}

fn keep<T>(faults: &mut Vec<Fault>, result: Result<T, Fault>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

fn schema(source: Source<'_>, fields: &mut Fields<'_, '_>) -> Result<(), Fault> {
    match fields.number("schema")? {
        Some(At { value: SCHEMA, .. }) => Ok(()),
        Some(At { value, line }) => Err(source
            .fault(line, format!("schema {value} is not known here; this program reads schema {SCHEMA}"))),
        None => Err(fields.fault(format!("scenario has no `schema`; add `schema = {SCHEMA}`"))),
    }
}

/// Everything but matrix, steps and expectations.
fn head(source: Source<'_>, fields: &mut Fields<'_, '_>) -> Result<Scenario, Fault> {
    let name = fields.need_str("name")?;
    let stem = source.file.rsplit('/').next().unwrap_or(source.file).trim_end_matches(".toml");
    if name.value != stem {
        return Err(source.fault(
            name.line,
            format!("name `{}` is not the file's; write name = \"{stem}\" or rename the file", name.value),
        ));
    }
    let cell_bytes = fields.number("cell_bytes")?;
    Ok(Scenario {
        name: name.value.to_owned(),
        title: fields.need_str("title")?.value.to_owned(),
        mechanism: fields.need_str("mechanism")?.value.trim().to_owned(),
        groups: fields.strings("groups")?.into_iter().map(|at| at.value).collect(),
        pages: at_least_one(source, "pages", fields.number("pages")?, DEFAULT_PAGES)?,
        cell_bytes: cell_bytes.map_or(Ok(stamp::DEFAULT_CELL_BYTES), |at| cell(source, at))?,
        machine: MachineNeeds::parse(fields)?,
        matrix: Matrix::default(),
        steps: Vec::new(),
        expect: Vec::new(),
    })
}

fn at_least_one(source: Source<'_>, key: &str, at: Option<At<u64>>, default: u64) -> Result<u64, Fault> {
    match at {
        Some(At { value: 0, line }) => {
            Err(source.fault(line, format!("`{key}` = 0 is empty; use 1 or more")))
        }
        Some(At { value, .. }) => Ok(value),
        None => Ok(default),
    }
}

fn cell(source: Source<'_>, At { value, line }: At<u64>) -> Result<u32, Fault> {
    let (min, max) = (dma::MIN_CELL_BYTES, dma::MAX_CELL_BYTES);
    u32::try_from(value).ok().filter(|cell| cell.is_power_of_two() && (min..=max).contains(cell)).ok_or_else(
        || {
            source
                .fault(line, format!("`cell_bytes` = {value} is no cell; use a power of two, {min} to {max}"))
        },
    )
}

fn matrix(source: Source<'_>, fields: &mut Fields<'_, '_>) -> Result<Matrix, Fault> {
    let Some(mut axes) = fields.table("matrix", "matrix")? else {
        return Err(fields.fault("scenario has no `matrix`; add at least `matrix.fs = [\"ext4\"]`"));
    };
    let mut flavours =
        |key| axes.words(key, "file system", |word| Flavour::parse(word).ok(), FileSystem::list);
    let (usual, on_request) = (flavours("fs")?, flavours("fs_on_request")?);
    let mut pins = |key| axes.words(key, "pin mode", Pin::parse, Pin::list);
    let (usual_pins, pin_on_request) = (pins("pin")?, pins("pin_on_request")?);
    let mut matrix = Matrix {
        fs: [usual, on_request.clone()].concat(),
        fs_on_request: on_request,
        pin: [usual_pins, pin_on_request.clone()].concat(),
        pin_on_request,
        release: axes.words("release", "release mode", Release::parse, Release::list)?,
        variant: axes.strings("variant")?.into_iter().map(|at| at.value).collect(),
        exclude: Vec::new(),
    };
    for item in axes.list("exclude")? {
        let line = source.line(item.span());
        let table = item.get_ref().as_table().ok_or_else(|| {
            source.fault(line, "`exclude` holds something that is no table; write { pin = \"longterm\" }")
        })?;
        let mut fields = Fields::new(source, "exclusion", line, table);
        matrix.exclude.push(condition(&mut fields)?);
        fields.finish()?;
    }
    if matrix.fs.is_empty() {
        return Err(axes.missing("fs"));
    }
    if matrix.pin.is_empty() {
        matrix.pin.push(Pin::None);
    }
    if matrix.release.is_empty() {
        matrix.release.push(Release::None);
    }
    axes.finish()?;
    Ok(matrix)
}

/// Each item of a list of tables; a bare string `"sync"` stands for `{ do = "sync" }`.
fn items<T>(
    faults: &mut Vec<Fault>,
    source: Source<'_>,
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    parse: impl Fn(&mut Fields<'_, '_>) -> Result<T, Fault>,
) -> Vec<T> {
    let Some(list) = keep(faults, fields.list(key)) else { return Vec::new() };
    let mut parsed = Vec::new();
    for item in list {
        let line = source.line(item.span());
        let short;
        let table = match item.get_ref() {
            DeValue::Table(table) => table,
            DeValue::String(_) if key == "step" => {
                short = DeTable::from_iter([(toml::Spanned::new(item.span(), "do".into()), item.clone())]);
                &short
            }
            other => {
                let found = other.type_str();
                faults.push(
                    source.fault(line, format!("`{key}` holds a value of type {found}; write a table")),
                );
                continue;
            }
        };
        let mut fields = Fields::new(source, key, line, table);
        let result = parse(&mut fields).and_then(|value| fields.finish().map(|()| value));
        parsed.extend(keep(faults, result));
    }
    parsed
}

fn expectation(fields: &mut Fields<'_, '_>) -> Result<Expectation, Fault> {
    fields.what = "expectation".into();
    let observe = fields.words("observe", "observation", Observation::parse, Observation::list)?;
    if observe.is_empty() {
        return Err(fields.fault(format!(
            "expectation has no `observe`; add `observe = [...]` with words of {}",
            Observation::list()
        )));
    }
    let observe = observe.into_iter().collect();
    Ok(Expectation {
        line: fields.line,
        when: condition(fields)?,
        race: race(fields, &observe)?,
        observe,
        errno: fields.str("errno")?.map(|at| at.value.to_owned()),
        blocked: fields.strings("blocked")?.into_iter().map(|at| at.value).collect(),
        reason: fields.need_str("reason")?.value.trim().to_owned(),
    })
}

/// Runs that `--repeat` can make.
const MOST_RUNS: u32 = 10_000;

/// `race = true`, with `within` and `or`, in a row that expects `observe`.
fn race(fields: &mut Fields<'_, '_>, observe: &BTreeSet<Observation>) -> Result<Option<RaceRow>, Fault> {
    let is_race = fields.flag_or("race", false)?;
    let within = fields.small("within")?;
    let others = fields.strings("or")?;
    if !is_race {
        return match within.is_some() || !others.is_empty() {
            true => {
                Err(fields.fault("`within` and `or` are of a race; add `race = true`, or take them away"))
            }
            false => Ok(None),
        };
    }
    let Some(within) = within.filter(|within| (1..=MOST_RUNS).contains(within)) else {
        return Err(fields.fault(format!(
            "race does not say in how many runs `observe` comes at least once; add `within = N`, 1 to {MOST_RUNS}"
        )));
    };
    let mut or = Vec::new();
    for At { value, line } in others {
        let words = value.split_whitespace().map(|word| {
            Observation::parse(word).ok_or_else(|| {
                let known = Observation::list();
                fields.fault_at(line, format!("observation `{word}` is unknown; use one of {known}"))
            })
        });
        or.push(words.collect::<Result<BTreeSet<_>, Fault>>()?);
    }
    match or.iter().any(|set| set.is_empty() || set == observe) || or.is_empty() {
        true => {
            Err(fields.fault("race has no other end; add `or = [\"intact\"]`, each entry a set of words"))
        }
        false => Ok(Some(RaceRow { within, or })),
    }
}
