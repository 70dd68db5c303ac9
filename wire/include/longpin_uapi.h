/* SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0 */
/* The ioctl interface of /dev/longpin0 for C. Meaning and errors: wire/src/uapi.rs. */
#ifndef LONGPIN_UAPI_H
#define LONGPIN_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define LONGPIN_VERSION 1

#define LONGPIN_MODE_LONGTERM 1
#define LONGPIN_MODE_PIN 2
#define LONGPIN_MODE_GET 3
#define LONGPIN_MODE_NOTIFIER 4

#define LONGPIN_ACCESS_READ 0
#define LONGPIN_ACCESS_WRITE 1

#define LONGPIN_RELEASE_CLEAN 0
#define LONGPIN_RELEASE_DIRTY 1

struct longpin_info {
	__u32 version;
	__u32 device_alive;
	__u64 max_region_bytes;
	__u32 nr_regions;
	__u32 nr_programs;
	__u64 pages_pinned;
};

struct longpin_pin {
	__u64 addr;
	__u64 length;
	__u32 mode;
	__u32 access;
	__u64 file_offset;
	__u64 run;
	__u32 region;
	__u32 nr_pages;
	__u32 nr_segments;
	__u32 reserved;
};

struct longpin_release {
	__u32 region;
	__u32 how;
};

struct longpin_submit {
	__u32 region;
	__u32 order;
	__u32 direction;
	__u32 payload;
	__u64 offset;
	__u64 length;
	__u64 seed;
	__u64 generation;
	__u64 run;
	__u64 rate_cells_per_s;
	__u64 passes;
	__u64 duration_us;
	__u32 cell_bytes;
	__u32 fill;
	__u64 start_delay_us;
	__u64 program;
};

struct longpin_wait {
	__u64 program;
	__u32 timeout_ms;
	__u32 status;
	__u32 crc32c;
	__u32 reserved;
	__u64 cells_done;
	__u64 last_generation;
	__u64 started_ns;
	__u64 finished_ns;
};

struct longpin_stop {
	__u64 program;
};

struct longpin_query {
	__u32 region;
	__u32 page_index;
	__u32 mode;
	__u32 access;
	__u64 length;
	__u32 nr_pages;
	__u32 nr_segments;
	__u32 nr_running;
	__u32 page_zone;
	__u64 page_dma_addr;
	__u64 page_flags;
	__u32 page_has_mapping;
	__u32 folio_pages;
};

struct longpin_mirror {
	__u32 region;
	__u32 reserved;
	__u64 pages;
	__u64 invalidations;
	__u64 longest_invalidation_ns;
	__u64 faults;
	__u64 refused;
	__u64 retries;
};

#define LONGPIN_IOC_TYPE 0xB9
#define LONGPIN_IOC_INFO _IOR(LONGPIN_IOC_TYPE, 0, struct longpin_info)
#define LONGPIN_IOC_PIN _IOWR(LONGPIN_IOC_TYPE, 1, struct longpin_pin)
#define LONGPIN_IOC_RELEASE _IOW(LONGPIN_IOC_TYPE, 2, struct longpin_release)
#define LONGPIN_IOC_SUBMIT _IOWR(LONGPIN_IOC_TYPE, 3, struct longpin_submit)
#define LONGPIN_IOC_WAIT _IOWR(LONGPIN_IOC_TYPE, 4, struct longpin_wait)
#define LONGPIN_IOC_STOP _IOW(LONGPIN_IOC_TYPE, 5, struct longpin_stop)
#define LONGPIN_IOC_QUERY _IOWR(LONGPIN_IOC_TYPE, 6, struct longpin_query)
#define LONGPIN_IOC_MIRROR _IOWR(LONGPIN_IOC_TYPE, 7, struct longpin_mirror)

#endif
