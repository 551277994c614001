// SPDX-License-Identifier: BSL-1.0
// What a process can do to its address space, checked by itself. Exit status 0 only if every check passed.
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL

static int failures;

#define CHECK(what)                                                \
  do {                                                             \
    if (!(what)) {                                                 \
      printf("workload: line %d: %s is false\n", __LINE__, #what); \
      ++failures;                                                  \
    }                                                              \
  } while (0)

static sigjmp_buf recovery;
static void on_fault(int number, siginfo_t* info, void* context) {
  (void)info;
  (void)context;
  siglongjmp(recovery, number);
}

// Each returns whether the access faults.
static int write_faults(volatile unsigned char* p) {
  if (sigsetjmp(recovery, 1)) return 1;
  *p = 1;
  return 0;
}
static int read_faults(volatile unsigned char* p) {
  if (sigsetjmp(recovery, 1)) return 1;
  (void)*p;
  return 0;
}
static int call_faults(void* p) {
  if (sigsetjmp(recovery, 1)) return 1;
  ((void (*)(void))(uintptr_t)p)();
  return 0;
}

static unsigned char* map(unsigned long bytes) {
  void* p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    perror("mmap");
    exit(1);
  }
  return p;
}
static void fill(unsigned char* p, unsigned long pages, uint64_t seed) {
  for (unsigned long i = 0; i < pages; ++i) {
    uint64_t v = seed * 1000003 + i;
    memcpy(p + i * PAGE + (i * 8) % PAGE, &v, sizeof v);
  }
}
static int filled(const unsigned char* p, unsigned long pages, uint64_t seed) {
  for (unsigned long i = 0; i < pages; ++i) {
    uint64_t v;
    memcpy(&v, p + i * PAGE + (i * 8) % PAGE, sizeof v);
    if (v != seed * 1000003 + i) return 0;
  }
  return 1;
}
static int status_of(pid_t child) {
  int status = -1;
  if (waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

static void copy_on_write(void) {
  enum { kPages = 256, kChildren = 20 };
  unsigned char* p = map(kPages * PAGE);
  fill(p, kPages, 1);
  for (int round = 0; round < kChildren; ++round) {
    pid_t child = fork();
    if (child == 0) {
      int ok = filled(p, kPages, 1);
      fill(p, kPages, 100 + (uint64_t)round);
      ok = ok && filled(p, kPages, 100 + (uint64_t)round);
      _exit(ok ? 7 : 1);
    }
    CHECK(status_of(child) == 7);
    CHECK(filled(p, kPages, 1));
  }
  // Both write: neither sees the other.
  int gate[2];
  CHECK(pipe(gate) == 0);
  pid_t child = fork();
  if (child == 0) {
    char c;
    if (read(gate[0], &c, 1) != 1) _exit(1);
    _exit(filled(p, kPages, 1) ? 7 : 1);
  }
  fill(p, kPages, 2);
  CHECK(write(gate[1], "x", 1) == 1);
  CHECK(status_of(child) == 7);
  CHECK(filled(p, kPages, 2));
  close(gate[0]);
  close(gate[1]);
  munmap(p, kPages * PAGE);
}

static void protections(void) {
  unsigned char* p = map(16 * PAGE);
  fill(p, 16, 3);
  for (int round = 0; round < 50; ++round) {
    unsigned char* q = p + (unsigned long)(round % 16) * PAGE;
    CHECK(mprotect(q, PAGE, PROT_READ) == 0);
    CHECK(write_faults(q + 4000));
    CHECK(!read_faults(q));
    CHECK(mprotect(q, PAGE, PROT_NONE) == 0);
    CHECK(read_faults(q));
    CHECK(mprotect(q, PAGE, PROT_READ | PROT_WRITE) == 0);
    CHECK(!write_faults(q + 4095));
  }
  CHECK(filled(p, 8, 3));
  // A function that only returns.
  p[0] = 0xC3;
  CHECK(call_faults(p));
  CHECK(mprotect(p, PAGE, PROT_READ | PROT_EXEC) == 0);
  CHECK(!call_faults(p));
  CHECK(write_faults(p));
  CHECK(mprotect(p, PAGE, PROT_READ | PROT_WRITE) == 0);
  CHECK(call_faults(p));
  CHECK(munmap(p + 4 * PAGE, 2 * PAGE) == 0);
  CHECK(read_faults(p + 4 * PAGE));
  CHECK(read_faults(p + 5 * PAGE));
  CHECK(!read_faults(p + 6 * PAGE));
  CHECK(read_faults((unsigned char*)0xFFFFFFFF80000000UL));
  munmap(p, 16 * PAGE);
}

static void moves(void) {
  unsigned char* p = map(64 * PAGE);
  fill(p, 64, 4);
  for (int round = 0; round < 20; ++round) {
    unsigned char* hole = map(256 * PAGE);
    unsigned char* q = mremap(p, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, hole + 64 * PAGE);
    CHECK(q == hole + 64 * PAGE);
    CHECK(read_faults(p));
    CHECK(filled(q, 64, 4));
    p = q;
    munmap(hole, 64 * PAGE);
    munmap(hole + 128 * PAGE, 128 * PAGE);
  }
  CHECK(madvise(p, 64 * PAGE, MADV_DONTNEED) == 0);
  for (unsigned long i = 0; i < 64; ++i) CHECK(p[i * PAGE + (i * 8) % PAGE] == 0);
  munmap(p, 64 * PAGE);
}

static void big(unsigned long mib) {
  unsigned long pages = mib << 8;
  unsigned char* p = map(pages * PAGE);
  madvise(p, pages * PAGE, MADV_HUGEPAGE);
  fill(p, pages, 5);
  CHECK(filled(p, pages, 5));
  munmap(p, pages * PAGE);
}

static void shared(void) {
  unsigned long* p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  pid_t children[4];
  for (int i = 0; i < 4; ++i) {
    children[i] = fork();
    if (children[i] == 0) {
      for (unsigned long n = 0; n < 20000; ++n) __atomic_fetch_add(&p[(n % 64) * (PAGE / 8)], 1, __ATOMIC_RELAXED);
      _exit(7);
    }
  }
  for (int i = 0; i < 4; ++i) CHECK(status_of(children[i]) == 7);
  unsigned long sum = 0;
  for (unsigned long i = 0; i < 64; ++i) sum += p[i * (PAGE / 8)];
  CHECK(sum == 80000);
  munmap(p, 64 * PAGE);
}

static void files(void) {
  FILE* f = fopen("/tmp/mapped", "w+");
  CHECK(f != NULL);
  if (f == NULL) return;
  CHECK(ftruncate(fileno(f), 32 * PAGE) == 0);
  unsigned char* p = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(f), 0);
  unsigned char* copy = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(f), 0);
  CHECK(p != MAP_FAILED && copy != MAP_FAILED);
  fill(p, 32, 6);
  CHECK(filled(copy, 32, 6));
  fill(copy, 32, 7);
  CHECK(filled(p, 32, 6));
  static unsigned char text[32 * PAGE];
  CHECK(pread(fileno(f), text, sizeof text, 0) == (ssize_t)sizeof text);
  CHECK(filled(text, 32, 6));
  munmap(p, 32 * PAGE);
  munmap(copy, 32 * PAGE);
  fclose(f);
}

static unsigned long counter;
static void* thread_body(void* seed) {
  uintptr_t ok = 1;
  for (uint64_t i = 0; i < 100; ++i) {
    unsigned char* p = map(16 * PAGE);
    fill(p, 16, (uintptr_t)seed * 1000 + i);
    __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED);
    ok = ok && filled(p, 16, (uintptr_t)seed * 1000 + i);
    munmap(p, 16 * PAGE);
  }
  return (void*)ok;
}
static void threads(void) {
  pthread_t t[4];
  for (uintptr_t i = 0; i < 4; ++i) CHECK(pthread_create(&t[i], NULL, thread_body, (void*)(i + 1)) == 0);
  for (int i = 0; i < 4; ++i) {
    void* ok = NULL;
    CHECK(pthread_join(t[i], &ok) == 0 && ok != NULL);
  }
  CHECK(counter == 400);
}

static void pipes(void) {
  enum { kBytes = 1 << 20 };
  int fd[2];
  CHECK(pipe(fd) == 0);
  pid_t child = fork();
  if (child == 0) {
    unsigned char buffer[3000];
    for (unsigned sent = 0; sent < kBytes;) {
      unsigned n = kBytes - sent < sizeof buffer ? kBytes - sent : (unsigned)sizeof buffer;
      for (unsigned i = 0; i < n; ++i) buffer[i] = (unsigned char)((sent + i) * 31);
      if (write(fd[1], buffer, n) != (ssize_t)n) _exit(1);
      sent += n;
    }
    _exit(7);
  }
  close(fd[1]);
  unsigned char buffer[4096];
  unsigned got = 0;
  int same = 1;
  for (ssize_t n; (n = read(fd[0], buffer, sizeof buffer)) > 0;)
    for (ssize_t i = 0; i < n; ++i) same = same && buffer[i] == (unsigned char)(got++ * 31);
  CHECK(got == kBytes && same);
  close(fd[0]);
  CHECK(status_of(child) == 7);
}

static void execs(void) {
  int times = getenv("brief") != NULL ? 100 : 300;
  for (int i = 0; i < times; ++i) {
    char number[16];
    snprintf(number, sizeof number, "%d", i);
    pid_t child = fork();
    if (child == 0) {
      execl("/proc/self/exe", "workload", "child", number, (char*)NULL);
      _exit(127);
    }
    CHECK(status_of(child) == i % 100);
  }
}

// Many processes with large address spaces take turns, some more often than others, and touch a few regions each time,
// some more often than others: more page tables than a small limit of shadow pages has room for.
enum { kProcesses = 24, kRegions = 48, kRegionPages = 16, kTouched = 6, kTurns = 3000 };
#define REGION (2UL << 20)

static uint32_t next_random(uint32_t* state) {
  *state = *state * 1664525 + 1013904223;
  return *state >> 16;
}
// Below n; half of them below n / 4.
static uint32_t skewed(uint32_t* state, uint32_t n) {
  uint32_t r = next_random(state);
  return (uint32_t)((uint64_t)r * r * n >> 32);
}
static void serve(int in, int out, uint32_t process) {
  unsigned char* p = map((kRegions + 1) * REGION);
  p = (unsigned char*)(((uintptr_t)p + REGION - 1) & ~(REGION - 1));
  madvise(p, kRegions * REGION, MADV_NOHUGEPAGE);
  uint64_t visits[kRegions] = {0};
  uint32_t state = process;
  int ok = 1;
  for (char c; ok && read(in, &c, 1) == 1;) {
    for (int n = 0; n < kTouched; ++n) {
      uint32_t region = skewed(&state, kRegions);
      for (unsigned long i = 0; i < kRegionPages; ++i) {
        volatile uint64_t* at = (uint64_t*)(p + region * REGION + i * PAGE);
        uint64_t mark = (uint64_t)process << 48 | (uint64_t)region << 32 | i << 24;
        ok = ok && *at == (visits[region] == 0 ? 0 : mark | visits[region]);
        *at = mark | (visits[region] + 1);
      }
      ++visits[region];
    }
    ok = ok && write(out, &c, 1) == 1;
  }
  _exit(ok ? 7 : 1);
}
static void crowd(void) {
  int ask[kProcesses][2], answer[kProcesses][2];
  pid_t children[kProcesses];
  for (int i = 0; i < kProcesses; ++i) {
    CHECK(pipe(ask[i]) == 0 && pipe(answer[i]) == 0);
    children[i] = fork();
    if (children[i] == 0) {
      for (int j = 0; j <= i; ++j) close(ask[j][1]);
      serve(ask[i][0], answer[i][1], (uint32_t)i);
    }
    close(ask[i][0]);
    close(answer[i][1]);
  }
  uint32_t state = 1;
  for (int turn = 0; turn < kTurns && failures == 0; ++turn) {
    uint32_t i = skewed(&state, kProcesses);
    char c = (char)turn, back = (char)(turn + 1);
    CHECK(write(ask[i][1], &c, 1) == 1 && read(answer[i][0], &back, 1) == 1 && back == c);
  }
  for (int i = 0; i < kProcesses; ++i) {
    close(ask[i][1]);
    close(answer[i][0]);
    CHECK(status_of(children[i]) == 7);
  }
}

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "child") == 0) return atoi(argv[2]) % 100;
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc == 2 && strcmp(argv[1], "crowd") == 0) {
    crowd();
    printf("workload: crowd: %s\n", failures == 0 ? "ok" : "FAILED");
    return failures == 0 ? 0 : 1;
  }
  struct sigaction action = {0};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, NULL);
  sigaction(SIGBUS, &action, NULL);

  static const struct {
    const char* name;
    void (*run)(void);
  } tests[] = {{"copy on write", copy_on_write},
               {"protections", protections},
               {"moves", moves},
               {"shared", shared},
               {"files", files},
               {"threads", threads},
               {"pipes", pipes},
               {"execs", execs}};
  for (unsigned i = 0; i < sizeof tests / sizeof tests[0]; ++i) {
    int before = failures;
    fflush(stdout);
    tests[i].run();
    printf("workload: %s: %s\n", tests[i].name, failures == before ? "ok" : "FAILED");
  }
  long free_mib = sysconf(_SC_AVPHYS_PAGES) >> 8;
  big(free_mib > 400 ? 128 : 64);
  printf("workload: big: done\n");
  return failures == 0 ? 0 : 1;
}
