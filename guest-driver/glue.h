/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Between the C and the Rust side of longpin: what Rust needs of virtio and of
 * memory management and cannot reach. Linux 7.3 has neither bindings nor
 * abstractions for virtio, register_virtio_driver() is a macro, and
 * virtio_find_vqs() and the configuration accessors are inline, as much of mm is.
 *
 * Kbuild makes Rust's declarations from this file (glue.rs), so it includes
 * little, and names the kernel's structures without their content.
 */
#ifndef LONGPIN_GLUE_H
#define LONGPIN_GLUE_H

#include <linux/types.h>

struct device;
struct mm_struct;
struct page;
struct sg_table;
struct virtqueue;
struct workqueue_struct;

/* glue.rs compares these with wire/src/dma.rs. */

/* "Audio policy" of virtio 1.3; Linux has no driver for it. */
#define LONGPIN_VIRTIO_ID	38
#define LONGPIN_NUM_QUEUES	4
/* Largest region, so that a region of one piece may be one DMA segment. */
#define LONGPIN_MAX_SEGMENT	(1U << 30)
/* Why pages are taken back, enum mmu_notifier_event in words that stay. */
#define LONGPIN_INVALIDATE_UNMAP		1
#define LONGPIN_INVALIDATE_CLEAR		2
#define LONGPIN_INVALIDATE_PROTECTION_VMA	3
#define LONGPIN_INVALIDATE_PROTECTION_PAGE	4
#define LONGPIN_INVALIDATE_SOFT_DIRTY		5
#define LONGPIN_INVALIDATE_RELEASE		6
#define LONGPIN_INVALIDATE_MIGRATE		7
#define LONGPIN_INVALIDATE_EXCLUSIVE		8
#define LONGPIN_INVALIDATE_OTHER		9

/*
 * virtio_glue.c, called by Rust. A port is one bound virtio device with its
 * queues. It lives from probe to the end of remove.
 */
struct longpin_port;

int longpin_driver_register(void);
void longpin_driver_unregister(void);

struct device *longpin_port_dev(struct longpin_port *port);
struct device *longpin_port_dma_dev(struct longpin_port *port,
				    bool *translates);
void longpin_port_read_config(struct longpin_port *port, void *buf,
			      unsigned int len);
struct virtqueue *longpin_port_queue(struct longpin_port *port,
				     unsigned int index);
void longpin_port_ready(struct longpin_port *port, void *device);
void longpin_port_reset(struct longpin_port *port);
struct workqueue_struct *longpin_fault_queue(void);

int longpin_queue_add(struct virtqueue *vq, const void *request,
		      unsigned int request_len, void *response,
		      unsigned int response_len, void *token);

/* The virtio core's own, as <linux/virtio.h> has them. */
void *virtqueue_get_buf(struct virtqueue *vq, unsigned int *len);
void *virtqueue_detach_unused_buf(struct virtqueue *vq);
bool virtqueue_is_broken(const struct virtqueue *vq);

/* probe.rs, called by virtio_glue.c. */
unsigned int longpin_rust_nr_queues(struct longpin_port *port);
void *longpin_rust_probe(struct longpin_port *port);
void longpin_rust_remove(void *bound);
bool longpin_rust_drain(void *device);
void longpin_rust_fail(void *device);
void longpin_rust_put(void *device);

/* mm_glue.c, called by Rust. */
struct longpin_page_facts {
	u64 flags;
	u32 zone;
	u32 folio_pages;
	u32 has_mapping;
};

int longpin_charge_pinned(struct mm_struct *mm, unsigned long nr_pages);
void longpin_uncharge_pinned(struct mm_struct *mm, unsigned long nr_pages);
void longpin_put_page(struct page *page);
bool longpin_is_zero_page(struct page *page);
void longpin_page_facts(struct page *page, struct longpin_page_facts *facts);
bool longpin_sgt_is_physical(struct sg_table *sgt);
u64 longpin_page_phys(struct page *page);
bool longpin_dma_failed(struct device *dev, u64 dma_addr);
bool longpin_killed(void);
void longpin_resched(void);

/*
 * mirror_glue.c, called by Rust. A mirror hears of what the kernel does to a
 * range of a process' memory.
 */
struct longpin_mirror;

struct longpin_mirror *longpin_mirror_alloc(void);
void longpin_mirror_free(struct longpin_mirror *mirror);
int longpin_mirror_insert(struct longpin_mirror *mirror, const void *owner,
			  unsigned long start, unsigned long length);
void longpin_mirror_remove(struct longpin_mirror *mirror);
void longpin_mirror_set_seq(struct longpin_mirror *mirror, unsigned long seq);
bool longpin_mirror_moved(struct longpin_mirror *mirror, unsigned long seq);
int longpin_mirror_fault(struct longpin_mirror *mirror, unsigned long addr,
			 unsigned long nr_pages, bool write,
			 unsigned long *pfns, unsigned long *seq);
struct page *longpin_mirror_page(unsigned long pfn, bool write);

/* mirror.rs, called by mirror_glue.c. */
void longpin_rust_invalidate(const void *owner, unsigned long start,
			     unsigned long end, unsigned int reason,
			     unsigned long seq);

#endif
