/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the Rust side of longpin needs of virtio and cannot reach: Linux 7.3 has
 * neither bindings nor abstractions for virtio, register_virtio_driver() is a
 * macro, and virtio_find_vqs() and the configuration accessors are inline.
 *
 * A port is one bound virtio device with its two queues. It lives from probe to
 * the end of remove. Mirrored by hand in port.rs and queue.rs.
 */
#ifndef LONGPIN_VIRTIO_GLUE_H
#define LONGPIN_VIRTIO_GLUE_H

#include <linux/types.h>

struct device;
struct virtqueue;
struct longpin_port;

/* C, called by Rust. */
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

/* Rust, called by C. */
void *longpin_rust_probe(struct longpin_port *port);
void longpin_rust_remove(void *bound);
bool longpin_rust_drain(void *device);
void longpin_rust_fail(void *device);
void longpin_rust_put(void *device);

#endif
