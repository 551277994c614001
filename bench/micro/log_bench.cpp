// SPDX-License-Identifier: BSL-1.0
#include "micro/direct_world.hpp"

/// Dirty logs, ageing, splits and range invalidation: cost a page. Floor: as of every fault, in the same run.
namespace shadowmmu::bench {
namespace {

/// The id of a World's only slot is the first one.
constexpr SlotId kSlot{0};
unsigned tables(const benchmark::State& state) { return static_cast<unsigned>(state.range(0)); }
void publish_floors(benchmark::State& state, const char* name, Samples& s, Samples& floor) {
  publish(state, std::string(name) + "_ns", s);
  state.counters[std::string(name) + "_floors"] = s.median() / floor.median();
}

/// Write protection of all at the start, the first write to each page afterwards, the log fetched when all is dirty,
/// when a tenth is, and when nothing is. ns a page; flushes of each call.
void dirty_log(benchmark::State& state) {
  World<> w(tables(state));
  const auto n = static_cast<double>(w.all().size());
  std::vector<std::uint64_t> out(w.mmu().dirty_log_words(w.arena().guest_pages()));
  const auto fetch = [&] { static_cast<void>(w.mmu().fetch_dirty_log(kSlot, 0, out.size(), out.data())); };
  const auto flushes = [&] { return static_cast<double>(w.mmu().stats().flushes); };
  for (auto _ : state) {
    Samples floor;
    Samples start;
    Samples refault;
    Samples full;
    Samples tenth;
    Samples none;
    double start_flushes = 0;
    double fetch_flushes = 0;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      w.fill();
      double before = flushes();
      start.add(cpu_ns([&] { static_cast<void>(w.mmu().start_dirty_log(kSlot)); }) / n);
      start_flushes = flushes() - before;
      refault.add(cpu_ns([&] {
                    for (const Gva a : w.all()) w.fault(a);
                  }) /
                  n);
      before = flushes();
      full.add(cpu_ns(fetch) / n);
      fetch_flushes = flushes() - before;
      for (std::size_t i = 0; i < w.all().size() / 10; ++i) w.fault(w.all()[i]);
      tenth.add(cpu_ns(fetch) / (n / 10));
      none.add(cpu_ns(fetch) / static_cast<double>(out.size()));
      static_cast<void>(w.mmu().stop_dirty_log(kSlot));
    }
    publish(state, "floor_ns", floor);
    publish_floors(state, "start_spte", start, floor);
    publish_floors(state, "refault", refault, floor);
    publish_floors(state, "fetch_dirty", full, floor);
    publish_floors(state, "fetch_tenth", tenth, floor);
    publish_floors(state, "fetch_clean_word", none, floor);
    state.counters["start_flushes"] = start_flushes;
    state.counters["fetch_flushes"] = fetch_flushes;
  }
}
BENCHMARK(dirty_log)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

/// The same over a direct map whose hardware keeps D bits, by both methods.
void dirty_log_direct(benchmark::State& state) {
  const DirtyMethod method = state.range(0) == 0 ? DirtyMethod::WriteProtect : DirtyMethod::DirtyBit;
  World<> beside(64);
  DirectWorld<> w(64, Level{1});
  const auto n = static_cast<double>(w.pages());
  std::vector<std::uint64_t> out(w.mmu().dirty_log_words(w.pages()));
  const auto fetch = [&] { static_cast<void>(w.mmu().fetch_dirty_log(w.slot(), 0, out.size(), out.data())); };
  for (auto _ : state) {
    Samples floor;
    Samples start;
    Samples refault;
    Samples full;
    Samples none;
    for (int r = 0; r < kRepeats; ++r) {
      beside.empty_with_leaves();
      floor.add(beside.floor_pass(beside.order()));
      w.mmu().zap_all_fast();
      w.fill();
      start.add(cpu_ns([&] { static_cast<void>(w.mmu().start_dirty_log(w.slot(), method)); }) / n);
      fetch();
      if (method == DirtyMethod::WriteProtect) {
        refault.add(cpu_ns([&] {
                      for (const std::uint64_t g : w.order()) w.write(g);
                    }) /
                    n);
      } else {
        // No fault under this method: entries made anew have D, as if the hardware had set it.
        refault.add(0);
        w.mmu().unmap(Gfn{0}, w.pages());
        w.fill();
      }
      full.add(cpu_ns(fetch) / n);
      none.add(cpu_ns(fetch) / n);
      static_cast<void>(w.mmu().stop_dirty_log(w.slot()));
    }
    publish(state, "floor_ns", floor);
    publish_floors(state, "start_spte", start, floor);
    publish_floors(state, "refault", refault, floor);
    publish_floors(state, "fetch_dirty", full, floor);
    publish_floors(state, "fetch_clean_page", none, floor);
  }
}
BENCHMARK(dirty_log_direct)->Arg(0)->Arg(1)->Iterations(1)->Unit(benchmark::kMillisecond);

/// 256 large pages of a direct map split into 4 KiB ones; us a large page. Floor: to fill a table of 512 entries and
/// 512 words of reverse map, us.
void split_large(benchmark::State& state) {
  DirectWorld<> w(256, Level{2});
  std::vector<std::uint64_t> table(512 * 256);
  std::vector<std::uint32_t> heads(512 * 256);
  for (auto _ : state) {
    Samples floor;
    Samples ours;
    double split = 0;
    for (int r = 0; r < kRepeats; ++r) {
      floor.add(cpu_ns([&] {
                  for (std::size_t t = 0; t < 256; ++t)
                    for (std::size_t i = 0; i < 512; ++i) {
                      table[t * 512 + i] = (t * 512 + i) << 12U | 0x67;
                      heads[t * 512 + i] = static_cast<std::uint32_t>(t << 9U | i);
                    }
                  benchmark::DoNotOptimize(table.data());
                  benchmark::DoNotOptimize(heads.data());
                }) /
                256e3);
      w.mmu().zap_all_fast();
      w.touch_regions();
      const std::uint64_t before = w.mmu().stats().splits;
      ours.add(cpu_ns([&] {
                 if (!w.mmu().split_large_pages(w.slot()).ok()) std::abort();
               }) /
               256e3);
      split = static_cast<double>(w.mmu().stats().splits - before);
    }
    publish(state, "us", ours);
    publish(state, "floor_us", floor);
    state.counters["floors"] = ours.median() / floor.median();
    state.counters["splits"] = split;
  }
}
BENCHMARK(split_large)->Iterations(1)->Unit(benchmark::kMillisecond);

/// Ageing and invalidation by ranges of 512 gfns, all mapped; ns a page. On guest tables the pages of a range lie
/// scattered over the shadow pages; on a direct map they share one.
void ranges(benchmark::State& state) {
  const unsigned t = tables(state);
  World<> w(t);
  DirectWorld<> d(std::uint64_t{t} * kPerTable / 512, Level{1});
  const std::uint64_t n = w.all().size();
  const auto each = [&](std::uint64_t first, auto&& body) {
    return cpu_ns([&] {
             for (std::uint64_t g = 0; g < n; g += 512) body(Gfn{first + g});
           }) /
           static_cast<double>(n);
  };
  for (auto _ : state) {
    Samples floor;
    Samples young;
    Samples aged;
    Samples unmap;
    Samples direct_young;
    Samples direct_unmap;
    double flushes = 0;
    double direct_flushes = 0;
    for (int r = 0; r < kRepeats; ++r) {
      w.empty_with_leaves();
      floor.add(w.floor_pass(w.order()));
      w.fill();
      const auto clear = [&](Gfn g) { benchmark::DoNotOptimize(w.mmu().clear_young(g, 512)); };
      young.add(each(kFirstData, clear));
      aged.add(each(kFirstData, clear));
      std::uint64_t before = w.mmu().stats().flushes;
      unmap.add(each(kFirstData, [&](Gfn g) { w.mmu().unmap(g, 512); }));
      flushes = static_cast<double>(w.mmu().stats().flushes - before) * 512 / static_cast<double>(n);
      d.mmu().zap_all_fast();
      d.fill();
      direct_young.add(each(0, [&](Gfn g) { benchmark::DoNotOptimize(d.mmu().clear_young(g, 512)); }));
      before = d.mmu().stats().flushes;
      direct_unmap.add(each(0, [&](Gfn g) { d.mmu().unmap(g, 512); }));
      direct_flushes = static_cast<double>(d.mmu().stats().flushes - before) * 512 / static_cast<double>(n);
    }
    publish(state, "floor_ns", floor);
    publish_floors(state, "clear_young", young, floor);
    publish_floors(state, "clear_young_again", aged, floor);
    publish_floors(state, "unmap512", unmap, floor);
    publish_floors(state, "direct_clear_young", direct_young, floor);
    publish_floors(state, "direct_unmap512", direct_unmap, floor);
    state.counters["flushes_a_range"] = flushes;
    state.counters["direct_flushes_a_range"] = direct_flushes;
  }
}
BENCHMARK(ranges)->Arg(64)->Arg(2048)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace shadowmmu::bench
