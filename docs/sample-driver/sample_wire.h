/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The accelerator's side as far as this driver needs it. Meaning and rules:
 * wire/src/dma.rs. Everything is little-endian.
 */
#ifndef SAMPLE_WIRE_H
#define SAMPLE_WIRE_H

#include <linux/build_bug.h>
#include <linux/types.h>

#ifndef __LITTLE_ENDIAN
#error "the device is little-endian, and so must be the kernel"
#endif

#define WIRE_VIRTIO_ID		38
#define WIRE_MAGIC		0x4e49504c	/* "LPIN" */
#define WIRE_VERSION		1
#define WIRE_MAX_REGION_BYTES	(1UL << 30)

#define WIRE_OP_MAP		1
#define WIRE_OP_UNMAP		2
#define WIRE_OP_STOP		3
#define WIRE_OP_DMA		4

#define WIRE_MAP_FIRST		1
#define WIRE_MAP_LAST		2

#define WIRE_STATUS_OK		0
#define WIRE_STATUS_NOT_FOUND	2
#define WIRE_STATUS_LIMIT	6

/* Each request has this head, and one wire_response as its answer. */
struct wire_head {
	u32 op;
	u32 reserved;
	u64 tag;
};

struct wire_segment {
	u64 dma_addr;
	u64 len;
};

struct wire_map {
	struct wire_head head;
	u32 region;
	u32 flags;
	u64 total_bytes;
	u64 file_offset;
	u64 run;
	u32 pin_mode;
	u32 nr_segments;
	struct wire_segment segments[];
};
static_assert(sizeof(struct wire_map) == 16 + 40);

struct wire_unmap {
	struct wire_head head;
	u32 region;
	u32 release;
};
static_assert(sizeof(struct wire_unmap) == 16 + 8);

struct wire_stop {
	struct wire_head head;
	u64 program;
};
static_assert(sizeof(struct wire_stop) == 16 + 8);

struct wire_dma {
	struct wire_head head;
	u32 region;
	u32 order;
	u32 direction;
	u32 payload;
	u64 offset;
	u64 length;
	u64 seed;
	u64 generation;
	u64 run;
	u64 rate_cells_per_s;
	u64 passes;
	u64 duration_us;
	u32 cell_bytes;
	u32 fill;
	u64 start_delay_us;
};
static_assert(sizeof(struct wire_dma) == 16 + 96);

struct wire_response {
	u32 status;
	u32 crc32c;
	u64 tag;
	u64 cells_done;
	u64 last_generation;
	u64 started_ns;
	u64 finished_ns;
};
static_assert(sizeof(struct wire_response) == 48);

#endif
