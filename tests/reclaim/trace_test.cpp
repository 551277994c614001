// SPDX-License-Identifier: BSL-1.0
#include "reclaim/trace.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "reclaim/synthetic.hpp"
#include "shadowmmu/sim/random.hpp"

/// The readers of traces: what is well formed comes back as it was, and nothing else is taken.
namespace {
using namespace shadowmmu;

using bench::load_trace;
using bench::Record;
using bench::save_trace;
using bench::Trace;
using bench::TraceError;
using bench::TraceFormat;

/// A folder that goes with its test.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("trace_test." + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::string file(std::string_view name) const { return (path_ / name).string(); }
  /// Returns: the path of a new file with this content.
  [[nodiscard]] std::string put(std::string_view name, std::string_view bytes) const {
    std::ofstream(file(name), std::ios::binary) << bytes;
    return file(name);
  }
  [[nodiscard]] std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::filesystem::path path_;
};

std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class T>
void append(std::string& to, T value) {
  for (unsigned i = 0; i < sizeof value; ++i) {
    to.push_back(static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i) & 0xff));
  }
}
std::string native_bytes(const std::vector<Record>& records) {
  std::string bytes;
  for (const Record r : records) append(bytes, r.word);
  return bytes;
}
std::string oracle_bytes(std::uint64_t id, std::int64_t next) {
  std::string bytes;
  append(bytes, std::uint32_t{7});
  append(bytes, id);
  append(bytes, std::uint32_t{4096});
  append(bytes, next);
  return bytes;
}

std::vector<Record> sample(std::size_t count, std::uint64_t seed) {
  sim::Random random(seed);
  std::vector<Record> records;
  while (records.size() < count) {
    // One draw a statement: the order of arguments is the compiler's choice.
    const auto space = static_cast<std::uint16_t>(random.below(5));
    const std::uint64_t page = random.below(4000) | (random.flip() ? std::uint64_t{1} << 35 : 0);
    const bool store = random.flip();
    const bool fetch = random.chance(1, 4);
    records.push_back(random.chance(1, 50) ? Record::make_end(space) : Record::make(page, space, store, fetch));
  }
  return records;
}

constexpr std::uint64_t kAny = 0;
/// Expects a refusal at this record (kAny: at whichever) for a reason that holds these words.
void refused(const std::string& path, std::uint64_t record, std::string_view words,
             TraceFormat format = TraceFormat::Guess, std::uint64_t limit = bench::kMaxRecords) {
  CAPTURE(path);
  try {
    static_cast<void>(load_trace(path, format, limit));
    FAIL("was taken");
  } catch (const TraceError& e) {
    const std::string what = e.what();
    CAPTURE(what);
    CHECK((e.record() == record || (record == kAny && e.record() != 0)));
    CHECK(what.starts_with(path + ": record " + std::to_string(e.record()) + ": "));
    CHECK(what.find(words) != what.npos);
  }
}

TEST_CASE("a record's fields") {
  const Record r = Record::make(0xf'ffff'fffe, 0xabcd, true, false);
  CHECK(r.page() == 0xf'ffff'fffe);
  CHECK(r.space() == 0xabcd);
  CHECK(r.store());
  CHECK_FALSE(r.fetch());
  CHECK_FALSE(r.end());
  CHECK(Record::make(1, 2, false, true).word == (1U | 2ULL << 36 | 1ULL << 53));
  CHECK(Record::make(1, 2, true).word == (1U | 2ULL << 36 | 1ULL << 52));
  CHECK(Record::make_end(3).end());
  CHECK(Record::make_end(3).space() == 3);
  CHECK(Record::make_end(3).word == (3ULL << 36 | 1ULL << 63));
  CHECK((r.word & Record::kReserved) == 0);
  CHECK(Record::kReserved == 0x7fc0'0000'0000'0000);
  // What does not fit must not spill into the neighbour.
  CHECK(Record::make(std::uint64_t{1} << 36, 0).word == 0);
}

TEST_CASE("what was saved is loaded") {
  const Folder folder;
  const std::vector<Record> records = sample(300'000, 1);  // more than a chunk
  for (const char* name : {"a.u64", "a.u64.zst"}) {
    const std::string path = folder.file(name);
    save_trace(path, records);
    const Trace trace = load_trace(path);
    CHECK(trace.name == "a");
    CHECK(trace.records == records);
    CHECK(load_trace(path, TraceFormat::Native).records == records);
  }
  CHECK(content(folder.file("a.u64")) == native_bytes(records));
  CHECK(std::filesystem::file_size(folder.file("a.u64.zst")) < std::filesystem::file_size(folder.file("a.u64")) / 2);
  CHECK(folder.files() == 2);
  save_trace(folder.file("a.u64"), sample(1, 2));
  CHECK(load_trace(folder.file("a.u64")).records.size() == 1);
}

TEST_CASE("the size of a chunk is no border") {
  const Folder folder;
  const std::vector<Record> thousand = sample(1000, 5);  // over and over: zstd is quick with it
  for (const std::size_t count : {131'071U, 131'072U, 131'073U, 262'144U}) {
    std::vector<Record> records;
    for (std::size_t i = 0; i < count; ++i) records.push_back(thousand[i % thousand.size()]);
    CHECK(load_trace(folder.put("n.u64", native_bytes(records))).records == records);
    save_trace(folder.file("n.u64.zst"), records);
    CHECK(load_trace(folder.file("n.u64.zst")).records == records);
  }
}

TEST_CASE("two zstd frames in a row are one trace") {
  const Folder folder;
  const std::vector<Record> records = sample(1000, 3);
  save_trace(folder.file("a.u64.zst"), records);
  const std::string frame = content(folder.file("a.u64.zst"));
  const Trace twice = load_trace(folder.put("b.u64.zst", frame + frame));
  CHECK(twice.records.size() == 2000);
  CHECK(std::vector(twice.records.begin() + 1000, twice.records.end()) == records);
}

TEST_CASE("native: refusals") {
  const Folder folder;
  refused(folder.file("none.u64"), 1, "cannot be opened");
  refused(folder.file(""), 1, "cannot be read", TraceFormat::Native);
  refused(folder.put("e.u64", ""), 1, "is empty");
  refused(folder.put("e.u64.zst", ""), 1, "is empty");

  std::vector<Record> records = sample(200'000, 4);
  const std::string bytes = native_bytes(records);
  for (std::size_t cut = 1; cut < 8; ++cut) {
    refused(folder.put("cut.u64", bytes.substr(0, bytes.size() - cut)), 200'000, "is cut off");
  }
  refused(folder.put("cut.u64", "abc"), 1, "is cut off");
  for (unsigned bit = 54; bit < 63; ++bit) {
    const std::size_t at = bit * 3000U;
    records[at].word |= std::uint64_t{1} << bit;
    refused(folder.put("bit.u64", native_bytes(records)), at + 1, "reserved");
    CHECK_THROWS_AS(save_trace(folder.file("bit2.u64"), records), TraceError);
    records[at].word &= ~(std::uint64_t{1} << bit);
  }
  // An image, a text, an archive: words of a foreign file do not look like records.
  refused(folder.put("foreign.u64", "This is a text of sixteen times.\n1234567"), 1, "reserved");
  refused(folder.put("limit.u64", bytes), 1001, "more than 1000 records", TraceFormat::Guess, 1000);
  CHECK(load_trace(folder.file("limit.u64"), TraceFormat::Guess, 200'000).records.size() == 200'000);
  refused(folder.file("limit.u64"), 200'000, "more than", TraceFormat::Guess, 199'999);
}

TEST_CASE("compressed: refusals") {
  const Folder folder;
  const std::vector<Record> records = sample(200'000, 5);
  const std::string path = folder.file("a.u64.zst");
  save_trace(path, records);
  const std::string bytes = content(path);
  refused(folder.put("half.u64.zst", bytes.substr(0, 3)), 1, "ends early");
  refused(folder.put("half.u64.zst", bytes.substr(0, bytes.size() - 1)), 200'001, "ends early");
  refused(folder.put("more.u64.zst", bytes + "12345678"), 200'001, "bad compressed data");
  refused(folder.put("plain.u64.zst", native_bytes(records)), 1, "bad compressed data");
  refused(path, 101, "more than 100 records", TraceFormat::Guess, 100);
  std::string flipped = bytes;
  flipped[flipped.size() - 2] ^= 1;  // the checksum: zstd keeps back the block before it
  refused(folder.put("flip.u64.zst", flipped), kAny, "bad compressed data");
  // A frame that wants a window of 2^31 bytes, and one of a reader's memory: magic, descriptor, window.
  refused(folder.put("wide.u64.zst", std::string_view("\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00", 9)), 1, "bad compressed");
  // One that claims 2^62 bytes and has none.
  refused(folder.put("claim.u64.zst", std::string_view("\x28\xb5\x2f\xfd\xc0\x58\x00\x00\x00\x00\x00\x00\x00\x40", 14)),
          1, "ends early");
}

TEST_CASE("a bomb ends at the limit") {
  const Folder folder;
  const std::string path = folder.file("bomb.u64.zst");
  save_trace(path, std::vector<Record>(4'000'000, Record::make(1, 1)));
  CHECK(std::filesystem::file_size(path) < 10'000);
  refused(path, 1'000'001, "more than 1000000", TraceFormat::Guess, 1'000'000);
}

TEST_CASE("Lackey's text") {
  const Folder folder;
  const std::string text =
      "==77== Lackey, an example Valgrind tool\n"
      "==77== \n"
      "I  04001040,3\n"
      " S 1ffefffdf8,8\n"
      " L 04222ffc,8\n"
      " M 0421f000,1\n"
      "I  ffffffff81000fff,2\n"
      "==77== Counted 3 calls\n";
  const std::vector<Record> wanted{
      Record::make(0x4001, 0, false, true),
      Record::make(0x1ffefff, 0, true),
      Record::make(0x4222, 0),
      Record::make(0x4223, 0),
      Record::make(0x421f, 0, true),
      Record::make(0xffff81000, 0, false, true),
      Record::make(0xffff81001, 0, false, true),
  };
  for (const char* name : {"ls.lackey", "valgrind.out"}) {
    const Trace trace = load_trace(folder.put(name, text));
    CHECK(trace.name == (std::string_view(name) == "ls.lackey" ? "ls" : "valgrind.out"));
    CHECK(trace.records == wanted);
  }
  CHECK(load_trace(folder.put("any.u64", text), TraceFormat::Lackey).records == wanted);
  const std::string without(text.substr(text.find("I  ")));
  CHECK(load_trace(folder.put("plain", without)).records == wanted);
  // A line of Valgrind's own may be longer than any buffer.
  std::string wide = "==1== ";
  wide.append(3'000'000, 'x').append("\n").append(without);
  CHECK(load_trace(folder.put("long.lackey", wide)).records == wanted);
  std::string many;
  for (unsigned i = 0; i < 120'000; ++i) many += " L 0421f000,4\n";
  CHECK(load_trace(folder.put("many.lackey", many)).records.size() == 120'000);
  refused(folder.file("many.lackey"), 5001, "more than 5000", TraceFormat::Guess, 5000);
}

TEST_CASE("Lackey: refusals") {
  const Folder folder;
  const std::string good = "==1== x\n L 04222ffc,8\n";
  for (const char* line : {"X  04001040,3", "I 04001040,3", " L 04001040", " L 04001040,", " L ,3", " L zz,3",
                           " L -1,3", " L 04001040,3 ", " L 04001040,-3", " L 04001040,3x", "", " L", "\x01\x02\xff",
                           " L 104001040040010400,3", " L 04001040,99999999999999999999999"}) {
    CAPTURE(line);
    std::string text = good;
    text.append(line).append("\n").append(good);
    refused(folder.put("bad.lackey", text), 3, "is no line of Lackey's");
  }
  refused(folder.put("bad.lackey", good + " L 04001040,0\n"), 3, "0 bytes");
  refused(folder.put("bad.lackey", good + " L 04001040,4097\n"), 3, "4097 bytes");
  refused(folder.put("bad.lackey", good + " L 800000000000,1\n"), 3, "not canonical");
  refused(folder.put("bad.lackey", good + " L 7fffffffffff,2\n"), 3, "not canonical");
  refused(folder.put("bad.lackey", good + " L ffffffffffffffff,2\n"), 3, "not canonical");
  refused(folder.put("bad.lackey", good + " L 0400"), 3, "cut off");
  refused(folder.put("bad.lackey", good + "==1=="), 3, "cut off");
  refused(folder.put("bad.lackey", good + "==1==" + std::string(2'000'000, 'x')), 3, "cut off");
  refused(folder.put("bad.lackey", good + std::string(3'000'000, 'x')), 3, "Lackey");
  refused(folder.put("bad.lackey", ""), 1, "is empty");
  refused(folder.put("bad.lackey", "==1== only\n"), 2, "no access");
}

TEST_CASE("libCacheSim's oracleGeneral") {
  const Folder folder;
  const std::string bytes = oracle_bytes(5, 2) + oracle_bytes(0xf'ffff'ffff, -1) + oracle_bytes(5, 4) +
                            oracle_bytes(9, std::numeric_limits<std::int64_t>::max()) + oracle_bytes(5, 1000);
  CHECK(bytes.size() == 5 * 24);
  const std::vector<Record> wanted{Record::make(5, 0), Record::make(0xf'ffff'ffff, 0), Record::make(5, 0),
                                   Record::make(9, 0), Record::make(5, 0)};
  for (const char* name : {"w1.oracleGeneral", "w1.oracleGeneral.bin"}) {
    const Trace trace = load_trace(folder.put(name, bytes));
    CHECK(trace.name == "w1");
    CHECK(trace.records == wanted);
  }
  std::string many;
  for (unsigned i = 0; i < 100'000; ++i) many += oracle_bytes(i, -1);
  const Trace trace = load_trace(folder.put("many.oracleGeneral", many));
  REQUIRE(trace.records.size() == 100'000);
  CHECK(trace.records.back().page() == 99'999);
  refused(folder.file("many.oracleGeneral"), 50'001, "more than", TraceFormat::Guess, 50'000);
}

TEST_CASE("oracleGeneral: refusals") {
  const Folder folder;
  std::string good;
  for (unsigned i = 0; i < 60'000; ++i) good += oracle_bytes(i, -1);
  const auto bad = [&](const std::string& bytes) { return folder.put("bad.oracleGeneral", good + bytes); };
  refused(bad(oracle_bytes(std::uint64_t{1} << 36, -1)), 60'001, "no page number");
  refused(bad(oracle_bytes(1, 60'000)), 60'001, "next access");
  refused(bad(oracle_bytes(1, 0)), 60'001, "next access");
  refused(bad(oracle_bytes(1, -2)), 60'001, "next access");
  refused(bad(oracle_bytes(1, std::numeric_limits<std::int64_t>::min())), 60'001, "next access");
  refused(bad(oracle_bytes(1, -1).substr(1)), 60'001, "cut off");
  refused(folder.put("bad.oracleGeneral", ""), 1, "is empty");
  CHECK(load_trace(bad(oracle_bytes(1, 60'001))).records.size() == 60'001);
}

TEST_CASE("compressed text and structs") {
  const Folder folder;
  // A skippable frame and a raw block: made by hand, since there is no writer for these.
  const auto frame = [](const std::string& bytes) {
    std::string z("\x28\xb5\x2f\xfd\x20", 5);  // a single segment, one byte of content size
    z.push_back(static_cast<char>(bytes.size()));
    append(z, static_cast<std::uint32_t>(bytes.size() << 3 | 1));
    z.pop_back();  // the block's header is three bytes
    return z + bytes;
  };
  CHECK(load_trace(folder.put("a.lackey.zst", frame(" L 5000,8\n"))).records == std::vector{Record::make(5, 0)});
  CHECK(load_trace(folder.put("b.zst", frame(" L 5000,8\n"))).records == std::vector{Record::make(5, 0)});
  CHECK(load_trace(folder.put("c.oracleGeneral.zst", frame(oracle_bytes(8, -1)))).records ==
        std::vector{Record::make(8, 0)});
  CHECK(load_trace(folder.put("c.oracleGeneral.bin.zst", frame(oracle_bytes(8, -1)))).name == "c");
  refused(folder.put("d.oracleGeneral.zst", frame(oracle_bytes(8, 0))), 1, "next access");
  refused(folder.put("d.zst", frame("hello\n")), 1, "no known format");
}

TEST_CASE("the guess") {
  using bench::format_of_name;
  CHECK(format_of_name("/a/b/c.u64") == TraceFormat::Native);
  CHECK(format_of_name("c.u64.zst") == TraceFormat::Native);
  CHECK(format_of_name("c.lackey") == TraceFormat::Lackey);
  CHECK(format_of_name("c.lackey.zst") == TraceFormat::Lackey);
  CHECK(format_of_name("c.oracleGeneral") == TraceFormat::OracleGeneral);
  CHECK(format_of_name("c.oracleGeneral.zst") == TraceFormat::OracleGeneral);
  CHECK(format_of_name("c.oracleGeneral.bin") == TraceFormat::OracleGeneral);
  CHECK(format_of_name("c.oracleGeneral.bin.zst") == TraceFormat::OracleGeneral);
  CHECK(format_of_name("c.u64.d/e") == TraceFormat::Guess);
  CHECK(format_of_name("c.bin") == TraceFormat::Guess);
  CHECK(format_of_name("") == TraceFormat::Guess);

  const Folder folder;
  refused(folder.file("none"), 1, "cannot be opened");
  refused(folder.put("a", ""), 1, "is empty");
  refused(folder.put("b", "ab"), 1, "no known format");
  // Records without a name say nothing: they could be anything.
  const std::string path = folder.put("c", native_bytes(sample(100, 6)));
  refused(path, 1, "no known format");
  CHECK(load_trace(path, TraceFormat::Native).records.size() == 100);
}

TEST_CASE("what cannot be saved") {
  const Folder folder;
  CHECK_THROWS_AS(save_trace(folder.file("none/a.u64"), sample(1, 7)), TraceError);
  CHECK_THROWS_AS(save_trace(folder.file("a.u64"), {}), TraceError);
  CHECK(folder.files() == 0);
  std::filesystem::create_directories(folder.file("dir.u64/x"));
  CHECK_THROWS_AS(save_trace(folder.file("dir.u64"), sample(1, 8)), TraceError);
  CHECK(folder.files() == 1);  // no half-written file stays
}

/// Flips, cuts, doubles and drops bytes. A file that is taken all the same must hold only records that could be saved.
TEST_CASE("damaged files are refused or read, never more") {
  const Folder folder;
#ifdef SHADOWMMU_LONG
  constexpr unsigned kRounds = 40'000;
#else
  constexpr unsigned kRounds = 600;
#endif
  const std::vector<Record> records = sample(400, 9);
  save_trace(folder.file("a.u64.zst"), records);
  std::string text;
  std::string structs;
  sim::Random random(10);
  for (unsigned i = 0; i < 100; ++i) {
    const char* const kind = random.flip() ? " L " : "I  ";
    text += kind + std::to_string(random.below(1'000'000)) + ",8\n";
    const auto later = static_cast<std::int64_t>(i + 1 + random.below(50));
    const std::uint64_t id = random.below(1000);
    structs += oracle_bytes(id, random.flip() ? -1 : later);
  }
  struct Kind {
    const char* name;
    std::string bytes;
  };
  const std::vector<Kind> kinds{
      {"f.u64", native_bytes(records)}, {"f.u64.zst", content(folder.file("a.u64.zst"))},    {"f.lackey", text},
      {"f.oracleGeneral", structs},     {"f.lackey.zst", content(folder.file("a.u64.zst"))}, {"f", text}};
  unsigned taken = 0;
  unsigned rejected = 0;
  for (unsigned round = 0; round < kRounds; ++round) {
    const Kind& kind = kinds[round % kinds.size()];
    std::string bytes = kind.bytes;
    for (std::uint64_t left = random.below(4); left > 0 && !bytes.empty(); --left) {
      const std::size_t at = random.below(bytes.size());
      switch (random.below(4)) {
        case 0:
          bytes[at] = static_cast<char>(bytes[at] ^ 1 << random.below(8));
          break;
        case 1:
          bytes.resize(at);
          break;
        case 2:
          bytes.insert(at, bytes.substr(at, random.below(40)));
          break;
        default:
          bytes.erase(at, random.below(20));
          break;
      }
    }
    try {
      const Trace trace = load_trace(folder.put(kind.name, bytes), TraceFormat::Guess, 1 << 20);
      ++taken;
      CHECK_FALSE(trace.records.empty());
      for (const Record r : trace.records) REQUIRE((r.word & Record::kReserved) == 0);
    } catch (const TraceError& e) {
      ++rejected;
      REQUIRE(e.record() != 0);
    }
  }
  CHECK(taken != 0);
  CHECK(rejected > taken);
}

std::map<std::uint64_t, std::uint64_t> touches_by_table(const Trace& trace) {
  std::map<std::uint64_t, std::uint64_t> touches;
  for (const Record r : trace.records) ++touches[r.page() / 512];
  return touches;
}

TEST_CASE("synthetic traces: shape, and the same every time") {
  const Folder folder;
  for (const std::string_view name : bench::kSyntheticNames) {
    CAPTURE(name);
    const Trace trace = bench::synthetic(name, 50'001);
    CHECK(trace.name == name);
    CHECK(trace.records.size() == 50'001);
    CHECK(bench::synthetic(name, 50'001).records == trace.records);
    CHECK(bench::synthetic(name, 20).records == std::vector(trace.records.begin(), trace.records.begin() + 20));
    CHECK(bench::synthetic(name, 0).records.empty());
    CHECK(bench::synthetic(name, 100, 1).records.size() == 100);
    save_trace(folder.file("s.u64.zst"), trace.records);
    CHECK(load_trace(folder.file("s.u64.zst")).records == trace.records);
  }
  CHECK_THROWS_AS(static_cast<void>(bench::synthetic("scam", 1)), std::invalid_argument);
}

TEST_CASE("synthetic traces: what each is made for") {
  constexpr std::uint64_t kLimit = 64;
  SUBCASE("scan: every table as often, and a few more than fit") {
    const auto touches = touches_by_table(bench::synthetic("scan", 72'000, kLimit));
    CHECK(touches.size() == 72);
    for (const auto& [table, count] : touches) CHECK(count == 1000);
  }
  SUBCASE("zipf: the hottest page alone is a good part, and its table is like the others") {
    const Trace trace = bench::synthetic("zipf", 400'000, kLimit);
    CHECK(touches_by_table(trace).size() == 4 * kLimit);
    std::map<std::uint64_t, std::uint64_t> pages;
    for (const Record r : trace.records) ++pages[r.page()];
    std::uint64_t most = 0;
    for (const auto& [page, count] : pages) most = std::max(most, count);
    // 1 / H(16384), and H(16384) is 10.28.
    CHECK(most > 37'000);
    CHECK(most < 41'000);
    CHECK(pages.size() > 10'000);
  }
  SUBCASE("adversary: half of the touches are of pages that come once") {
    const Trace trace = bench::synthetic("adversary", 512 * 2 * 100, kLimit);
    std::map<std::uint64_t, std::uint64_t> pages;
    for (const Record r : trace.records) ++pages[r.page()];
    std::uint64_t once = 0;
    for (const auto& [page, count] : pages) once += count == 1 ? 1 : 0;
    CHECK(once == 512 * 100);
    CHECK(pages.size() == once + 48);
    CHECK(touches_by_table(trace).size() == 148);
  }
  SUBCASE("phases: a set that fits at any time, and moves") {
    const Trace trace = bench::synthetic("phases", 400'000, kLimit);
    CHECK(touches_by_table(trace).size() == 4 * 48);
    for (std::size_t phase = 0; phase < 20; ++phase) {
      std::set<std::uint64_t> tables;
      for (std::size_t i = 0; i < 20'000; ++i) tables.insert(trace.records[phase * 20'000 + i].page() / 512);
      CHECK(tables.size() == 48);
    }
  }
}

}  // namespace
