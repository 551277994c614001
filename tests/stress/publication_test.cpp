// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"

/// Parts of the Mmu that one thread makes and another looks at, by real threads: what is published are ordinary
/// objects, whose contents no model of single words knows. The sanitizer of threads says whether an order is missing.
namespace {
using namespace shadowmmu;
using Memory = memory::Smp;

/// Effects: runs both at the same time.
template <class F, class G>
void beside(F&& f, G&& g) {
  std::atomic<unsigned> ready{0};
  const auto together = [&ready](auto& what) {
    ready.fetch_add(1, std::memory_order_relaxed);
    while (ready.load(std::memory_order_relaxed) != 2) std::this_thread::yield();
    what();
  };
  std::thread other([&] { together(g); });
  together(f);
  other.join();
}
/// Frames as a Host gives them: zeroed by ordinary stores.
struct Frames {
  void* fresh() {
    all.emplace_back(static_cast<char*>(std::aligned_alloc(kPageSize, kPageSize)), &std::free);
    std::memset(all.back().get(), 0, kPageSize);
    return all.back().get();
  }
  std::vector<std::unique_ptr<char, decltype(&std::free)>> all;
};

TEST_CASE("what lies below the end that a pool publishes may be looked at while it grows") {
  core::IndexedPool<core::Cell> pool;
  Frames frames;
  constexpr unsigned kFrames = 200;
  std::uint64_t seen = 0;
  beside(
      [&] {
        for (unsigned n = 0; n < kFrames; ++n) pool.grow<Memory>([&frames] { return frames.fresh(); });
      },
      [&] {
        for (std::uint32_t end = 0; end < kFrames * pool.kPerFrame;) {
          end = pool.published<Memory>();
          if (end != 0) seen |= Memory::plain(pool.at(end - 1)->bits[7]);
        }
      });
  CHECK(seen == 0);
  CHECK(pool.end() == kFrames * pool.kPerFrame);
  pool.drain([](void*) {});
}

TEST_CASE("the heads of a slot's lists may be looked at as soon as they are there") {
  host::Arena host(64, 64);
  using Slot = core::Slot<Memory>;
  constexpr std::uint64_t kLeaves = 200;
  Slot* slot = Slot::create(host, SlotId{}, Gfn{0}, kLeaves * Slot::kHeads, SlotFlags{});
  REQUIRE(slot != nullptr);
  Frames frames;
  std::uint64_t seen = 0;
  beside(
      [&] {
        for (std::uint64_t n = 0; n < kLeaves; ++n) slot->give_heads(Gfn{n * Slot::kHeads}, frames.fresh());
      },
      [&] {
        for (std::uint64_t n = 0; n < kLeaves;) {
          const std::uint32_t* head = slot->rmap_for_reader(Gfn{n * Slot::kHeads + 1023}, Level{1});
          if (head == nullptr) continue;
          seen |= Memory::plain(*head);
          n += 1;
        }
      });
  CHECK(seen == 0);
  for (std::uint64_t n = 0; n < kLeaves; ++n) slot->give_heads(Gfn{n * Slot::kHeads}, nullptr);
  slot->destroy(host);
}

/// What a hint does: it looks at a word that somebody else may be making into something else.
SHADOWMMU_RACES_KNOWINGLY std::uint32_t hint(const std::uint32_t& word) { return Memory::plain(word); }
TEST_CASE("a hint may look at what another thread makes: the sanitizer of threads leaves it alone") {
  std::vector<std::uint32_t> words(1024);
  std::uint32_t seen = 0;
  beside([&] { std::memset(words.data(), 0xff, words.size() * sizeof(std::uint32_t)); },
         [&] {
           for (const std::uint32_t& w : words) seen |= hint(w);
         });
  CHECK((seen == 0 || seen == 0xffff'ffff));  // of each word all or nothing
  CHECK(hint(words[5]) == 0xffff'ffff);
}

TEST_CASE("lock::Checked counts the sections of each thread by itself") {
  lock::Checked<lock::Readers<lock::Spin>> lock;
  const auto sections = [&lock] {
    for (unsigned n = 0; n < 20'000; ++n) {
      lock.section_began();
      lock.section_began();
      lock.section_ended();
      lock.section_ended();
    }
  };
  beside(sections, sections);
  lock.lock();
  lock.unlock();
}
}  // namespace
