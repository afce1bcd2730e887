/* Tables of structs for native/dispatch.py: LAYOUT(scan, T, B, …) exports the size of struct scan and the offsets
 * of the members named, in their order, and −1 as the end. */

#pragma once

#include <stddef.h>
#include <stdint.h>

#define PARENTHESES ()
#define EXPAND(...) EXPAND3(EXPAND3(EXPAND3(EXPAND3(__VA_ARGS__))))
#define EXPAND3(...) EXPAND2(EXPAND2(EXPAND2(EXPAND2(__VA_ARGS__))))
#define EXPAND2(...) EXPAND1(EXPAND1(EXPAND1(EXPAND1(__VA_ARGS__))))
#define EXPAND1(...) __VA_ARGS__
#define OFFSETS(type, member, ...) offsetof(struct type, member), __VA_OPT__(OFFSETS_OF PARENTHESES(type, __VA_ARGS__))
#define OFFSETS_OF() OFFSETS
#define LAYOUT(type, ...) const int64_t type##_layout[] = {sizeof(struct type), EXPAND(OFFSETS(type, __VA_ARGS__)) - 1};
