/* SPDX-License-Identifier: BSL-1.0 */
/* Drives any shadow MMU, written in any language, through random guests on a simulated CPU, beside an oracle of the
 * x86 manual. The MMU under test fills a shadowmmu_kit_mmu; it reaches memory, frames, flushes and kicks through the
 * shadowmmu_kit_machine that it is given. One C++ file of the test program includes <shadowmmu/sim/conformance.hpp>,
 * which defines the functions below. docs/CONFORMANCE.md says what is tried and what the verdicts mean.
 *
 * One thread calls everything. Addresses and frame numbers are physical unless called otherwise; frames have 4 KiB. */
#ifndef SHADOWMMU_SIM_CONFORMANCE_H
#define SHADOWMMU_SIM_CONFORMANCE_H

#include <stdint.h>

/* NOLINTBEGIN(readability-identifier-naming): names of C */
#ifdef __cplusplus
extern "C" {
#endif

#define SHADOWMMU_KIT_ALL_VCPUS 0xffffffffu
#define SHADOWMMU_KIT_VCPUS 2u

typedef struct shadowmmu_kit_machine shadowmmu_kit_machine;

/* --- what the MMU may call -------------------------------------------------------------------------------------- */

/* Returns: the host physical address of a frame for tables, below 4 GiB, contents undefined; 0 where there is none at
 * this moment: the operation then ends with SHADOWMMU_KIT_OUT_OF_MEMORY and is tried again. */
uint64_t shadowmmu_kit_alloc_frame(shadowmmu_kit_machine* machine);
/* Requires: no CPU that is in the guest may still walk the frame; the kit looks. */
void shadowmmu_kit_free_frame(shadowmmu_kit_machine* machine, uint64_t frame);
/* Returns: where a frame of alloc_frame, or of guest memory, lies. */
void* shadowmmu_kit_to_virt(shadowmmu_kit_machine* machine, uint64_t host_address);
/* For an MMU with table memory of its own (see `table`): it has no use for this frame any more. */
void shadowmmu_kit_frame_unused(shadowmmu_kit_machine* machine, uint64_t frame);

/* Returns: the 4 KiB of a guest frame, to be read; NULL where there is no memory. */
const void* shadowmmu_kit_guest_page(shadowmmu_kit_machine* machine, uint64_t gfn);
/* Compares and exchanges an aligned guest entry of 4 or 8 bytes: the only way to set A and D in it. Returns: 0 done,
 * 1 another value is there, 2 that memory takes no writes (A and D are not owed then). */
int shadowmmu_kit_guest_exchange(shadowmmu_kit_machine* machine, uint64_t gpa, unsigned bytes, uint64_t before,
                                 uint64_t after);

enum shadowmmu_kit_backing_kind { SHADOWMMU_KIT_NOTHING, SHADOWMMU_KIT_MEMORY, SHADOWMMU_KIT_ROM };
struct shadowmmu_kit_backing {
  int kind;       /* NOTHING: accesses are MMIO; ROM: writes are */
  int writable;   /* 0: the host shares the frame until somebody asks for it with `write` */
  int level;      /* 1, 2, 3: the frame lies in a host page of 4 KiB, 2 MiB, 1 GiB */
  int type;       /* memory type: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB; the PAT is that of power-on */
  uint64_t frame; /* host frame number of the very gfn */
};
struct shadowmmu_kit_backing shadowmmu_kit_backing_of(shadowmmu_kit_machine* machine, uint64_t gfn, int write);

/* The named vCPUs forget translations before this returns: of `pages` pages from page number `first`, leaves only; or,
 * with `everything`, all, paging-structure caches included. */
void shadowmmu_kit_flush(shadowmmu_kit_machine* machine, uint32_t vcpu, int everything, uint64_t first, uint64_t pages);
/* Each named vCPU is out of the guest when this returns, and will enter() before it runs again. */
void shadowmmu_kit_kick(shadowmmu_kit_machine* machine, uint32_t vcpu);

/* --- what the MMU offers ---------------------------------------------------------------------------------------- */

/* Registers that the hardware runs with. With `second_level`, cr3 is the EPT pointer and the rest is unused. */
struct shadowmmu_kit_registers {
  uint64_t cr0, cr3, cr4, efer;
};

enum shadowmmu_kit_answer {
  SHADOWMMU_KIT_RESUME,       /* run the guest again */
  SHADOWMMU_KIT_INJECT,       /* a page fault for the guest: error_code, address */
  SHADOWMMU_KIT_MMIO,         /* no memory there, or a write to ROM: gpa */
  SHADOWMMU_KIT_EMULATE,      /* carry the write out for the guest: gpa. The kit stores, then calls guest_wrote */
  SHADOWMMU_KIT_OUT_OF_MEMORY /* nothing changed */
};
struct shadowmmu_kit_outcome {
  int answer;
  uint32_t error_code;
  uint64_t address, gpa;
};

/* What the CPUs can do, and what the guest may know of them. */
struct shadowmmu_kit_cpu {
  unsigned host_address_bits, guest_address_bits; /* MAXPHYADDR */
  int second_level;                               /* the guest's addresses are guest physical: EPT */
  int accessed_dirty;                             /* second_level: the hardware keeps A and D */
  int large_1g;                                   /* the tables may map pages of 1 GiB */
};

struct shadowmmu_kit_mmu {
  /* Returns: an MMU for two vCPUs in reset state, without any mapping; NULL if it cannot be made. */
  void* (*create)(shadowmmu_kit_machine* machine, const struct shadowmmu_kit_cpu* cpu);
  void (*destroy)(void* mmu);

  /* The guest wrote control registers (EFER.LMA as the CPU would set it), or CR3, bit 63 as written where CR4.PCIDE is
   * set. Return: 0; 1 for #GP, nothing changed. NULL with second_level. */
  int (*set_control)(void* mmu, unsigned vcpu, uint64_t cr0, uint64_t cr4, uint64_t efer);
  int (*set_cr3)(void* mmu, unsigned vcpu, uint64_t value);
  /* Right before guest code runs. Returns: 0, `hardware` filled: its cr3 is the root; 1: out of memory. */
  int (*enter)(void* mmu, unsigned vcpu, struct shadowmmu_kit_registers* hardware);
  /* The hardware faulted: error code as pushed; second_level: W=2, fetch=16, and 8 for a misconfigured entry. */
  void (*fault)(void* mmu, unsigned vcpu, uint64_t address, uint32_t error_code, unsigned cpl, int ac,
                struct shadowmmu_kit_outcome* outcome);
  void (*invlpg)(void* mmu, unsigned vcpu, uint64_t address);
  void (*flush)(void* mmu, unsigned vcpu);
  /* Guest memory was written by a device or an emulator. */
  void (*guest_wrote)(void* mmu, uint64_t gpa, uint64_t bytes);
  /* When begin returns nothing maps these guest frames, and nothing will until end. */
  void (*unmap_begin)(void* mmu, uint64_t gfn, uint64_t pages);
  void (*unmap_end)(void* mmu);

  /* The rest may be NULL, or 0. */

  /* Nothing maps these frames writable when this returns; who writes asks backing_of() with `write`. NULL: unmapped. */
  void (*protect)(void* mmu, uint64_t gfn, uint64_t pages);
  /* For an MMU with table memory of its own: where a frame of it lies, NULL if it has no such frame. Addresses below
   * 1 GiB are its own then; guest memory lies above. */
  void* (*table)(void* mmu, uint64_t host_address);
  /* A dirty log of a range of guest frames. fetch: bit n of bits is frame first + n; the log is empty afterwards. */
  int (*start_log)(void* mmu, uint64_t first, uint64_t pages);
  int (*stop_log)(void* mmu, uint64_t first, uint64_t pages);
  int (*fetch_log)(void* mmu, uint64_t first, uint64_t pages, uint64_t* bits);
  /* Anything of its own that no guest may notice: eviction, a zap of everything. Returns: its name, for the story. */
  const char* (*upkeep)(void* mmu, uint64_t choice, uint64_t amount);
  /* How many addresses of one instruction are sure to be mapped at the same time in the end. */
  unsigned instruction_addresses;
  /* It ends an implicit supervisor access at CPL < 3 with AC set (to a descriptor table, say), of which nothing tells
   * it, in the fault that SMAP demands. 0: the kit makes none. */
  int explains_implicit;
  /* The guest may set CR4.PCIDE. */
  int pcid;
};

/* --- the run ------------------------------------------------------------------------------------------------------ */

struct shadowmmu_kit_options {
  uint64_t first_seed, seeds; /* 0 seeds: 400 */
  unsigned actions;           /* of a seed; 0: 200 */
  int second_level, no_accessed_dirty;
  void (*say)(void* to, const char* line); /* NULL: standard output */
  void* to;
};

/* Effects: runs seeds until one fails; says then what went wrong, and the shortest story that shows it. Returns: 0 if
 * none failed, 1 if one did, 2 if the MMU could not be made or lacks what is required. */
int shadowmmu_kit_run(const struct shadowmmu_kit_mmu* mmu, const struct shadowmmu_kit_options* options);

#ifdef __cplusplus
}
#endif
/* NOLINTEND(readability-identifier-naming) */
#endif
