// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <span>
#include <sstream>
#include <string>

#include "support/counting_memory.hpp"
#include "support/test_host.hpp"
#include "support/work.hpp"

namespace shadowmmu::test {

/// A Host that counts what it is asked for.
class CountingHost : public TestHost {
 public:
  using TestHost::TestHost;
  Result<Hpa> alloc_frame(FrameKind k) noexcept override {
    frames_taken += 1;
    return TestHost::alloc_frame(k);
  }
  void free_frame(Hpa p) noexcept override {
    frames_given += 1;
    TestHost::free_frame(p);
  }
  void flush(const FlushRequest& r) noexcept override {
    (r.scope == FlushRequest::Scope::Range ? pages_flushed : whole_flushes) +=
        r.scope == FlushRequest::Scope::Range ? r.pages : 1;
    TestHost::flush(r);
  }
  void* guest_page(Gfn g) noexcept override {
    guest_pages_asked += 1;
    return TestHost::guest_page(g);
  }
  Backing backing(Gfn g, bool write) noexcept override {
    backings += 1;
    return TestHost::backing(g, write);
  }
  std::uint64_t frames_taken = 0, frames_given = 0, whole_flushes = 0, pages_flushed = 0, guest_pages_asked = 0,
                backings = 0;
};

/// The rows that were met, in order: compared with a table's, or written down as it, in the directory that
/// SHADOWMMU_WORK_ROWS names.
class Ledger {
 public:
  Ledger(std::span<const WorkRow> rows, std::string table, std::string file)
      : expected_(rows), table_(std::move(table)), file_(std::move(file)) {}
  void add(const std::string& operation, const Work& w) {
    rows_ << "    {\"" << operation << "\", {" << w.accesses << ", " << w.holds << ", " << w.guest_pages << ", "
          << w.backings << ", " << w.frames_taken << ", " << w.frames_given << ", " << w.whole_flushes << ", "
          << w.pages_flushed << ", " << w.kicks << "}},\n";
    if (recording() != nullptr) return;
    REQUIRE_MESSAGE(seen_ < expected_.size(), "no row for " << operation);
    const WorkRow& r = expected_[seen_++];
    INFO(operation);
    REQUIRE(r.operation == operation);
    CHECK_MESSAGE(w.accesses == r.work.accesses, "accesses of shared cells and guest entries");
    CHECK_MESSAGE(w.holds == r.work.holds, "holds of a lock");
    CHECK_MESSAGE(w.guest_pages == r.work.guest_pages, "times that guest memory was looked up");
    CHECK_MESSAGE(w.backings == r.work.backings, "times that the Host was asked for backing");
    CHECK_MESSAGE(w.frames_taken == r.work.frames_taken, "frames taken");
    CHECK_MESSAGE(w.frames_given == r.work.frames_given, "frames given back");
    CHECK_MESSAGE(w.whole_flushes == r.work.whole_flushes, "flushes of everything");
    CHECK_MESSAGE(w.pages_flushed == r.work.pages_flushed, "pages flushed by ranges");
    CHECK_MESSAGE(w.kicks == r.work.kicks, "kicks");
  }
  void finish() {
    if (const char* directory = recording()) {
      std::ofstream out(std::string(directory) + "/" + file_);
      out << "// SPDX-License-Identifier: BSL-1.0\n"
             "#pragma once\n"
             "#include \"support/work.hpp\"\n"
             "\n"
             "// Written by work_test.cpp, which says how: accesses, holds, guest pages asked for, backings, frames "
             "taken, frames\n"
             "// given back, flushes of everything, pages flushed by ranges, kicks.\n"
             "namespace shadowmmu::test {\n"
             "\n"
             "// clang-format off\n"
             "inline constexpr WorkRow "
          << table_ << "[] = {\n"
          << rows_.str() << "};\n\n}  // namespace shadowmmu::test\n";
      REQUIRE(out.good());
      return;
    }
    CHECK(seen_ == expected_.size());
  }

 private:
  static const char* recording() { return std::getenv("SHADOWMMU_WORK_ROWS"); }
  std::span<const WorkRow> expected_;
  std::string table_, file_;
  std::ostringstream rows_;
  std::size_t seen_ = 0;
};

}  // namespace shadowmmu::test
