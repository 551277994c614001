// SPDX-License-Identifier: BSL-1.0
// mark start|stop: executes the instruction at which the plugin starts or ends recording; elsewhere it does nothing.
#include <string.h>

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "start") == 0) {
    __asm__ volatile(".byte 0x0f, 0x1f, 0x80; .long 0x53484d01");
  } else if (argc == 2 && strcmp(argv[1], "stop") == 0) {
    __asm__ volatile(".byte 0x0f, 0x1f, 0x80; .long 0x53484d02");
  } else {
    return 125;
  }
  return 0;
}
