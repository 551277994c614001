// SPDX-License-Identifier: BSL-1.0
// A QEMU TCG plugin that records which pages a guest touches: ../trace.hpp's native format, not yet compressed.
//
//   -plugin plugin.so,gva=FILE,gpa=FILE,records=N,epoch=N,skip=N,info=FILE
//
// gva, gpa: the files to write, one or both: guest-virtual pages with their address space, guest-physical pages.
// records: QEMU ends when a file has this many (4,000,000). epoch: data references in an epoch (50,000); a page of an
// address space is recorded when an epoch touches it first; 0 drops only what repeats the record before. skip: data
// references after the start marker that are not recorded. info: a summary is written there, else to stderr.
//
// Recording starts and ends at a marker, `nopl kStart(%rax)` and `nopl kStop(%rax)`, which the workload executes. Until
// the first nothing is instrumented.
//
// QEMU's API is declared in qemu-plugin.h, which is GPL-2.0-or-later and not part of this project.
#include <glib.h>
#include <inttypes.h>
#include <qemu-plugin.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if QEMU_PLUGIN_VERSION < 4
#error "needs the plugin API 4 (QEMU 9.2): older ones cannot read memory, or registers at all"
#endif

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

enum { kPageShift = 12, kKernelIndex = 256, kEntries = 512 };
static const uint64_t kStart = 0x53484d01;
static const uint64_t kStop = 0x53484d02;
static const uint64_t kPageMask = (UINT64_C(1) << 36) - 1;
static const uint64_t kStoreBit = UINT64_C(1) << 52;
static const uint64_t kFetchBit = UINT64_C(1) << 53;
static const uint64_t kEndBit = UINT64_C(1) << 63;
static const uint64_t kPresent = 1;

static _Noreturn void die(const char* why) {
  fprintf(stderr, "record plugin: %s\n", why);
  _exit(1);
}

// ---- What has been seen in this epoch -----------------------------------------------------------------------------

// Open addressing. A slot is page and space below, the epoch above; what carries another epoch is free. Within an epoch
// slots only fill, so a chain never has a hole.
enum { kSlots = 1 << 18, kEpochs = 1 << 12 };

typedef struct {
  const char* path;
  FILE* file;
  uint64_t count;
  uint64_t last;
  uint64_t used;
  uint64_t seen[kSlots];
} Stream;

static Stream gva;
static Stream gpa;
static uint64_t max_records = 4000000;
static uint64_t epoch_length = 50000;
static uint64_t skip;
static uint64_t epoch = 1;
static uint64_t refs_in_epoch;
static uint64_t refs;
static const char* info_path;
static _Noreturn void finish(void);

static void next_epoch(void) {
  refs_in_epoch = 0;
  gva.used = gpa.used = 0;
  if (++epoch < kEpochs) return;
  epoch = 1;
  memset(gva.seen, 0, sizeof gva.seen);
  memset(gpa.seen, 0, sizeof gpa.seen);
}

static bool first_in_epoch(Stream* s, uint64_t key) {
  const uint64_t wanted = key | epoch << 52;
  uint64_t at = (key * UINT64_C(0x9e3779b97f4a7c15)) >> 46;
  while (s->seen[at] != wanted) {
    if (s->seen[at] >> 52 != epoch) {
      s->seen[at] = wanted;
      if (++s->used > kSlots / 2) next_epoch();
      return true;
    }
    at = (at + 1) % kSlots;
  }
  return false;
}

static void put(Stream* s, uint64_t word) {
  if (fwrite(&word, sizeof word, 1, s->file) != 1) die("cannot write");
  s->last = word;
  if (++s->count >= max_records) finish();
}

static void touch(Stream* s, uint64_t page, uint64_t space, uint64_t flags) {
  const uint64_t key = (page & kPageMask) | space << 36;
  if (epoch_length == 0 ? s->last != (key | flags) : first_in_epoch(s, key)) put(s, key | flags);
}

// ---- Address spaces -----------------------------------------------------------------------------------------------

typedef struct {
  uint64_t frame;
  bool dying;  // the guest has taken its user half apart, but still runs on it
} Space;

enum { kMaxSpaces = 1 << 16, kMaxFrames = 1 << 20 };
static Space spaces[kMaxSpaces];
static unsigned space_count;           // 0 stays unused
static uint16_t space_of[kMaxFrames];  // a root's frame: its space, 0 for none
static unsigned current;
static unsigned ended;
static struct qemu_plugin_register* cr3_register;
static GByteArray* scratch;
static struct qemu_plugin_scoreboard* board;
static qemu_plugin_u64 cr3_stale;

static void end_space(unsigned id) {
  space_of[spaces[id].frame] = 0;
  ++ended;
  if (gva.file != NULL && refs > skip) put(&gva, (uint64_t)id << 36 | kEndBit);
}

// A block begins, and CR3 was written since the last one.
static void on_new_cr3(unsigned cpu, void* data) {
  (void)data;
  qemu_plugin_u64_set(cr3_stale, cpu, 0);
  g_byte_array_set_size(scratch, 0);
  if (qemu_plugin_read_register(cr3_register, scratch) != 8) die("CR3 cannot be read; is this a 64-bit guest?");
  uint64_t cr3;
  memcpy(&cr3, scratch->data, sizeof cr3);
  const uint64_t frame = (cr3 & UINT64_C(0x000ffffffffff000)) >> kPageShift;
  if (frame >= kMaxFrames) die("CR3 points above 4 GiB");
  if (current != 0 && spaces[current].frame == frame && space_of[frame] == current) return;
  if (current != 0 && spaces[current].dying && space_of[spaces[current].frame] == current) end_space(current);
  if (space_of[frame] == 0) {
    if (++space_count == kMaxSpaces) die("more than 65535 address spaces");
    spaces[space_count].frame = frame;
    spaces[space_count].dying = false;
    space_of[frame] = (uint16_t)space_count;
  }
  current = space_of[frame];
}

// A store into the root table of a known space, which never is the entry of a kernel half in use.
static void on_root_store(unsigned id, uint64_t at, qemu_plugin_meminfo_t info) {
  const unsigned index = (unsigned)(at >> 3) % kEntries;
  const qemu_plugin_mem_value value = qemu_plugin_mem_get_value(info);
  const bool entry = value.type == QEMU_PLUGIN_MEM_VALUE_U64;
  if (entry && (value.data.u64 & kPresent) != 0) return;
  if (index >= kKernelIndex) {
    // Linux never takes a kernel entry out of a root. So the frame is no root any more: zeroed, or holding something.
    if (id != current) end_space(id);
    return;
  }
  if (!entry || spaces[id].dying) return;
  // A user entry went. The last one goes when the guest takes the whole space apart, at exit or exec.
  g_byte_array_set_size(scratch, 0);
  if (!qemu_plugin_read_memory_vaddr(at & ~UINT64_C(0xfff), scratch, kKernelIndex * 8)) return;
  for (unsigned i = 0; i < kKernelIndex; ++i) {
    uint64_t other;
    memcpy(&other, scratch->data + i * 8, sizeof other);
    if (i != index && (other & kPresent) != 0) return;
  }
  if (id == current) {
    spaces[id].dying = true;
  } else {
    end_space(id);
  }
}

// ---- Accesses -----------------------------------------------------------------------------------------------------

static void on_data(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t at, void* data) {
  (void)cpu;
  (void)data;
  ++refs;
  const bool store = qemu_plugin_mem_is_store(info);
  const bool kernel = at >> 63 != 0;
  uint64_t frame = UINT64_MAX;
  if (gpa.file != NULL || (store && kernel)) {
    const struct qemu_plugin_hwaddr* where = qemu_plugin_get_hwaddr(info, at);
    if (where != NULL && !qemu_plugin_hwaddr_is_io(where)) frame = qemu_plugin_hwaddr_phys_addr(where) >> kPageShift;
  }
  if (store && kernel && frame < kMaxFrames && space_of[frame] != 0) on_root_store(space_of[frame], at, info);
  if (refs <= skip) return;
  if (epoch_length != 0 && ++refs_in_epoch > epoch_length) next_epoch();
  const uint64_t flags = store ? kStoreBit : 0;
  const uint64_t page = at >> kPageShift;
  if (gva.file != NULL) {
    touch(&gva, page, current, flags);
    const uint64_t last = (at + (UINT64_C(1) << qemu_plugin_mem_size_shift(info)) - 1) >> kPageShift;
    if (last != page) touch(&gva, last, current, flags);
  }
  // The second frame of an access that straddles is not known here; QEMU reports no address for it.
  if (gpa.file != NULL && frame != UINT64_MAX) touch(&gpa, frame, 0, flags);
}

// Where a block, or its part on another page, is fetched.
typedef struct {
  uint64_t page;
  uint64_t frame;  // UINT64_MAX: unknown
} Site;

static void on_fetch(unsigned cpu, void* data) {
  (void)cpu;
  if (refs < skip) return;
  const Site* site = data;
  if (gva.file != NULL) touch(&gva, site->page, current, kFetchBit);
  if (gpa.file != NULL && site->frame != UINT64_MAX) touch(&gpa, site->frame, 0, kFetchBit);
}

static guint site_hash(gconstpointer p) {
  const Site* s = p;
  return (guint)((s->page * UINT64_C(0x9e3779b97f4a7c15) + s->frame) >> 20);
}
static gboolean site_equal(gconstpointer a, gconstpointer b) { return memcmp(a, b, sizeof(Site)) == 0; }

static Site* intern(uint64_t page, uint64_t frame) {
  static GHashTable* sites;
  if (sites == NULL) sites = g_hash_table_new(site_hash, site_equal);
  const Site key = {page, frame};
  Site* found = g_hash_table_lookup(sites, &key);
  if (found == NULL) {
    found = g_memdup2(&key, sizeof key);
    g_hash_table_add(sites, found);
  }
  return found;
}

// The API gives the host's address of code, not the guest's physical one. What lies between is constant for RAM below
// 4 GiB, and known from the kernel's text, which `nokaslr` maps at a fixed distance.
static uint64_t ram_base;
static uint64_t frame_of_code(uint64_t at, const void* host) {
  const uint64_t text = UINT64_C(0xffffffff81000000);
  const uint64_t text_end = text + (UINT64_C(16) << 20);
  const uint64_t distance = UINT64_C(0xffffffff80000000);
  if (host == NULL) return UINT64_MAX;
  if (at >= text && at < text_end) {
    const uint64_t base = (uint64_t)(uintptr_t)host - (at - distance);
    if (ram_base == 0) ram_base = base;
    if (base != ram_base) die("the kernel's text is not where nokaslr puts it");
  }
  if (ram_base == 0) return UINT64_MAX;
  const uint64_t address = (uint64_t)(uintptr_t)host - ram_base;
  return address >> kPageShift < kMaxFrames ? address >> kPageShift : UINT64_MAX;  // else it is ROM
}

// ---- Translation --------------------------------------------------------------------------------------------------

static bool recording;
static qemu_plugin_id_t self;
static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb* tb);
static void on_translate_before(qemu_plugin_id_t id, struct qemu_plugin_tb* tb);

// All that was translated without instrumentation is gone now.
static void on_reset(qemu_plugin_id_t id) { qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate); }

static void on_start(unsigned cpu, void* data) {
  (void)data;
  if (recording) return;
  recording = true;
  qemu_plugin_u64_set(cr3_stale, cpu, 1);
  qemu_plugin_reset(self, on_reset);
}
static void on_stop(unsigned cpu, void* data) {
  (void)cpu;
  (void)data;
  if (recording) finish();
}

typedef enum { kOther, kStartMarker, kStopMarker, kLoadsCr3 } Kind;
static Kind kind_of(const struct qemu_plugin_insn* insn) {
  uint8_t code[16];
  const size_t size = qemu_plugin_insn_data(insn, code, sizeof code);
  size_t i = 0;
  // REX.R would make it CR11.
  if (size == 4 && code[0] >> 4 == 4 && (code[0] & 4) == 0) i = 1;
  if (size == i + 3 && code[i] == 0x0f && code[i + 1] == 0x22 && (code[i + 2] >> 3 & 7) == 3) return kLoadsCr3;
  if (size != 7 || code[0] != 0x0f || code[1] != 0x1f || code[2] != 0x80) return kOther;
  uint32_t displacement;
  memcpy(&displacement, code + 3, sizeof displacement);
  return displacement == kStart ? kStartMarker : displacement == kStop ? kStopMarker : kOther;
}

static void on_translate_before(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); ++i) {
    struct qemu_plugin_insn* insn = qemu_plugin_tb_get_insn(tb, i);
    if (gpa.file != NULL) frame_of_code(qemu_plugin_insn_vaddr(insn), qemu_plugin_insn_haddr(insn));
    if (kind_of(insn) == kStartMarker) {
      qemu_plugin_register_vcpu_insn_exec_cb(insn, on_start, QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
  }
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_cond_cb(tb, on_new_cr3, QEMU_PLUGIN_CB_R_REGS, QEMU_PLUGIN_COND_NE, cr3_stale, 0,
                                            NULL);
  uint64_t page = UINT64_MAX;
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); ++i) {
    struct qemu_plugin_insn* insn = qemu_plugin_tb_get_insn(tb, i);
    const uint64_t first = qemu_plugin_insn_vaddr(insn);
    const uint64_t last = first + qemu_plugin_insn_size(insn) - 1;
    if (first >> kPageShift != page) {
      page = first >> kPageShift;
      Site* site = intern(page, frame_of_code(first, qemu_plugin_insn_haddr(insn)));
      qemu_plugin_register_vcpu_insn_exec_cb(insn, on_fetch, QEMU_PLUGIN_CB_NO_REGS, site);
    }
    if (last >> kPageShift != page) {
      Site* site = intern(last >> kPageShift, UINT64_MAX);
      qemu_plugin_register_vcpu_insn_exec_cb(insn, on_fetch, QEMU_PLUGIN_CB_NO_REGS, site);
    }
    switch (kind_of(insn)) {
      case kStopMarker:
        qemu_plugin_register_vcpu_insn_exec_cb(insn, on_stop, QEMU_PLUGIN_CB_NO_REGS, NULL);
        break;
      case kLoadsCr3:
        // It ends its block: the next one looks.
        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, QEMU_PLUGIN_INLINE_STORE_U64, cr3_stale, 1);
        break;
      default:
        break;
    }
    qemu_plugin_register_vcpu_mem_cb(insn, on_data, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
  }
}

// ---- Begin and end ------------------------------------------------------------------------------------------------

static void close_stream(Stream* s) {
  if (s->file != NULL && fclose(s->file) != 0) die("cannot write");
  s->file = NULL;
}

static void close_all(void) {
  close_stream(&gva);
  close_stream(&gpa);
  FILE* info = info_path != NULL ? fopen(info_path, "w") : stderr;
  if (info == NULL) die("cannot write the summary");
  fprintf(info, "gva=%" PRIu64 " gpa=%" PRIu64 " data_references=%" PRIu64 " spaces=%u ended=%u\n", gva.count,
          gpa.count, refs, space_count, ended);
  if (info != stderr) fclose(info);
}
// Ends QEMU with the vCPU in the middle of a block: nothing of the guest is wanted any more.
static _Noreturn void finish(void) {
  close_all();
  _exit(0);
}
static void on_exit_of_qemu(qemu_plugin_id_t id, void* data) {
  (void)id;
  (void)data;
  close_all();
}

static void on_vcpu(qemu_plugin_id_t id, unsigned cpu) {
  (void)id;
  (void)cpu;
  GArray* registers = qemu_plugin_get_registers();
  for (guint i = 0; i < registers->len; ++i) {
    const qemu_plugin_reg_descriptor* r = &g_array_index(registers, qemu_plugin_reg_descriptor, i);
    if (strcmp(r->name, "cr3") == 0) cr3_register = r->handle;
  }
  g_array_free(registers, TRUE);
  if (cr3_register == NULL) die("QEMU shows no register cr3");
}

static void open_stream(Stream* s) {
  if (s->path == NULL) return;
  s->file = fopen(s->path, "wb");
  if (s->file == NULL) die("cannot make the trace");
  setvbuf(s->file, NULL, _IOFBF, 1 << 20);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc, char** argv) {
  if (!info->system_emulation || strcmp(info->target_name, "x86_64") != 0) die("for qemu-system-x86_64 only");
  if (info->system.max_vcpus != 1) die("for one vCPU only");
  for (int i = 0; i < argc; ++i) {
    const char* equals = strchr(argv[i], '=');
    if (equals == NULL) die("options are NAME=VALUE");
    char* name = g_strndup(argv[i], (gsize)(equals - argv[i]));
    const char* value = g_strdup(equals + 1);
    if (strcmp(name, "gva") == 0) {
      gva.path = value;
    } else if (strcmp(name, "gpa") == 0) {
      gpa.path = value;
    } else if (strcmp(name, "info") == 0) {
      info_path = value;
    } else if (strcmp(name, "records") == 0) {
      max_records = strtoull(value, NULL, 0);
    } else if (strcmp(name, "epoch") == 0) {
      epoch_length = strtoull(value, NULL, 0);
    } else if (strcmp(name, "skip") == 0) {
      skip = strtoull(value, NULL, 0);
    } else {
      die("options are gva, gpa, records, epoch, skip and info");
    }
    g_free(name);
  }
  if (gva.path == NULL && gpa.path == NULL) die("name a file: gva=FILE or gpa=FILE");
  if (max_records == 0) die("records=0 records nothing");
  open_stream(&gva);
  open_stream(&gpa);
  gva.last = gpa.last = UINT64_MAX;
  self = id;
  scratch = g_byte_array_new();
  board = qemu_plugin_scoreboard_new(sizeof(uint64_t));
  cr3_stale = qemu_plugin_scoreboard_u64(board);
  qemu_plugin_register_vcpu_init_cb(id, on_vcpu);
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate_before);
  qemu_plugin_register_atexit_cb(id, on_exit_of_qemu, NULL);
  return 0;
}
