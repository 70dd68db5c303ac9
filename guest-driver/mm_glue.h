/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Memory-management macros and inlines that Rust cannot reach in Linux 7.3.
 * Mirrored by hand in pins.rs, mapping.rs and accounting.rs.
 */
#ifndef LONGPIN_MM_GLUE_H
#define LONGPIN_MM_GLUE_H

#include <linux/build_bug.h>
#include <linux/types.h>

struct mm_struct;
struct page;
struct sg_table;

struct longpin_page_facts {
	u64 flags;
	u32 zone;
	u32 folio_pages;
	u32 has_mapping;
	u32 reserved;
};

static_assert(sizeof(struct longpin_page_facts) == 24);

int longpin_charge_pinned(struct mm_struct *mm, unsigned long nr_pages);
void longpin_uncharge_pinned(struct mm_struct *mm, unsigned long nr_pages);
void longpin_put_page(struct page *page);
bool longpin_is_zero_page(struct page *page);
void longpin_page_facts(struct page *page, struct longpin_page_facts *facts);
bool longpin_sgt_is_physical(struct sg_table *sgt);
bool longpin_killed(void);
void longpin_resched(void);

#endif
