// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `include/longpin_uapi.h` and `src/uapi.rs` describe the same bytes: a C compiler and rustc are asked for every
//! size, offset and ioctl number, and the answers are compared.

use longpin_wire::uapi::{self, Info, Mirror, Pin, Query, Release, Stop, Submit, Wait};
use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::process::Command;

/// One structure: C name, size by Rust, fields with their offset by Rust.
struct Layout {
    c_name: &'static str,
    size: usize,
    fields: Vec<(&'static str, usize)>,
}

macro_rules! layout {
    ($rust:ty, $c:literal, $($field:ident),+) => {
        Layout {
            c_name: $c,
            size: size_of::<$rust>(),
            fields: vec![$((stringify!($field), offset_of!($rust, $field))),+],
        }
    };
}

fn layouts() -> Vec<Layout> {
    vec![
        layout!(Info, "info", version, device_alive, max_region_bytes, nr_regions, nr_programs, pages_pinned),
        layout!(
            Pin,
            "pin",
            addr,
            length,
            mode,
            access,
            file_offset,
            run,
            region,
            nr_pages,
            nr_segments,
            reserved
        ),
        layout!(Release, "release", region, how),
        layout!(
            Submit,
            "submit",
            region,
            order,
            direction,
            payload,
            offset,
            length,
            seed,
            generation,
            run,
            rate_cells_per_s,
            passes,
            duration_us,
            cell_bytes,
            fill,
            start_delay_us,
            program
        ),
        layout!(
            Wait,
            "wait",
            program,
            timeout_ms,
            status,
            crc32c,
            reserved,
            cells_done,
            last_generation,
            started_ns,
            finished_ns
        ),
        layout!(Stop, "stop", program),
        layout!(
            Query,
            "query",
            region,
            page_index,
            mode,
            access,
            length,
            nr_pages,
            nr_segments,
            nr_running,
            page_zone,
            page_dma_addr,
            page_flags,
            page_has_mapping,
            folio_pages
        ),
        layout!(
            Mirror,
            "mirror",
            region,
            reserved,
            pages,
            invalidations,
            longest_invalidation_ns,
            faults,
            refused,
            retries
        ),
    ]
}

const NUMBERS: [(&str, u32); 16] = [
    ("LONGPIN_IOC_INFO", uapi::IOC_INFO),
    ("LONGPIN_IOC_PIN", uapi::IOC_PIN),
    ("LONGPIN_IOC_RELEASE", uapi::IOC_RELEASE),
    ("LONGPIN_IOC_SUBMIT", uapi::IOC_SUBMIT),
    ("LONGPIN_IOC_WAIT", uapi::IOC_WAIT),
    ("LONGPIN_IOC_STOP", uapi::IOC_STOP),
    ("LONGPIN_IOC_QUERY", uapi::IOC_QUERY),
    ("LONGPIN_IOC_MIRROR", uapi::IOC_MIRROR),
    ("LONGPIN_VERSION", uapi::VERSION),
    ("LONGPIN_MODE_LONGTERM", uapi::MODE_LONGTERM),
    ("LONGPIN_MODE_PIN", uapi::MODE_PIN),
    ("LONGPIN_MODE_GET", uapi::MODE_GET),
    ("LONGPIN_MODE_NOTIFIER", uapi::MODE_NOTIFIER),
    ("LONGPIN_ACCESS_WRITE", uapi::ACCESS_WRITE),
    ("LONGPIN_RELEASE_CLEAN", uapi::RELEASE_CLEAN),
    ("LONGPIN_RELEASE_DIRTY", uapi::RELEASE_DIRTY),
];

/// The lines that the C program must print, by Rust's account.
fn expected() -> String {
    let mut text = String::new();
    for layout in layouts() {
        writeln!(text, "{} {}", layout.c_name, layout.size).unwrap();
        for (field, offset) in layout.fields {
            writeln!(text, "{}.{field} {offset}", layout.c_name).unwrap();
        }
    }
    for (name, number) in NUMBERS {
        writeln!(text, "{name} {number}").unwrap();
    }
    text
}

/// A C program that prints the same lines from the header.
fn program() -> String {
    let mut body = String::new();
    for layout in layouts() {
        let name = layout.c_name;
        writeln!(body, "printf(\"{name} %zu\\n\", sizeof(struct longpin_{name}));").unwrap();
        for (field, _) in layout.fields {
            writeln!(body, "printf(\"{name}.{field} %zu\\n\", offsetof(struct longpin_{name}, {field}));")
                .unwrap();
        }
    }
    for (name, _) in NUMBERS {
        writeln!(body, "printf(\"{name} %u\\n\", (unsigned){name});").unwrap();
    }
    format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"longpin_uapi.h\"\nint main(void) {{\n{body}return 0;\n}}\n"
    )
}

#[test]
fn the_c_header_and_the_rust_structures_describe_the_same_bytes() {
    let dir = std::env::temp_dir().join(format!("longpin-layout-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (source, binary) = (dir.join("layout.c"), dir.join("layout"));
    std::fs::write(&source, program()).unwrap();
    let compiled = Command::new("cc")
        .args(["-Wall", "-Werror", "-I", concat!(env!("CARGO_MANIFEST_DIR"), "/include"), "-o"])
        .args([&binary, &source])
        .status()
        .expect("a C compiler, `cc`, is needed (package gcc)");
    assert!(compiled.success(), "the header does not compile");
    let printed = Command::new(&binary).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), expected());
}
