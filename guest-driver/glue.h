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

/* glue.rs compares these with wire/src/dma.rs. */

/* "Audio policy" of virtio 1.3; Linux has no driver for it. */
#define LONGPIN_VIRTIO_ID	38
#define LONGPIN_NUM_QUEUES	2
/* Largest region, so that a region of one piece may be one DMA segment. */
#define LONGPIN_MAX_SEGMENT	(1U << 30)

/*
 * virtio_glue.c, called by Rust. A port is one bound virtio device with its two
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

int longpin_queue_add(struct virtqueue *vq, const void *request,
		      unsigned int request_len, void *response,
		      unsigned int response_len, void *token);

/* The virtio core's own, as <linux/virtio.h> has them. */
void *virtqueue_get_buf(struct virtqueue *vq, unsigned int *len);
void *virtqueue_detach_unused_buf(struct virtqueue *vq);
bool virtqueue_is_broken(const struct virtqueue *vq);

/* port.rs, called by virtio_glue.c. */
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
bool longpin_killed(void);
void longpin_resched(void);

#endif
