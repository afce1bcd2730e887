/* Walks through the sum tree of the replay (agents/replay/sum_tree.py): double precision, and to the bit what
 * NumPy makes of the same numbers. Nearly all of the time goes into waiting for memory, so a few hundred walks
 * take each level together: their loads do not depend on each other. */

#include <stdint.h>

#define TOGETHER 256

/* From nodes (n,) of `level` down to leaves: node and value (n,) are replaced by the leaf and what is left. */
void tree_descend(const double *const *levels, int64_t depth, int64_t level, int64_t n, int64_t *node,
                  double *value) {
    for (int64_t first = 0; first < n; first += TOGETHER) {
        int64_t count = n - first < TOGETHER ? n - first : TOGETHER, *at = node + first;
        double *rest = value + first;
        for (int64_t k = level + 1; k <= depth; k++) {
            const double *below = levels[k];
            for (int64_t i = 0; i < count; i++) {
                double left = below[2 * at[i]];
                int64_t right = rest[i] >= left;
                rest[i] -= right ? left : 0.0;
                at[i] = 2 * at[i] + right;
            }
        }
    }
}

/* The leaves in which values (n,) fall, when the weights of level `top` are laid end to end: ends (size of top).
 * No value reaches the last end. */
void tree_find(const double *const *levels, const int64_t *sizes, int64_t depth, int64_t top, const double *ends,
               int64_t n, double *value, int64_t *node) {
    for (int64_t i = 0; i < n; i++) {
        int64_t first = 0; /* the first end beyond the value */
        for (int64_t length = sizes[top]; length > 0;) {
            int64_t half = length / 2, beyond = ends[first + half] <= value[i];
            first += beyond ? half + 1 : 0;
            length = beyond ? length - half - 1 : half;
        }
        node[i] = first;
        value[i] -= ends[first] - levels[top][first];
    }
    tree_descend(levels, depth, top, n, node, value);
}

/* Sums above the leaves (n,), which have changed: node by node below level `top`, from there on all of them.
 * `leaf` is used up. */
void tree_sum(double *const *levels, const int64_t *sizes, int64_t depth, int64_t top, int64_t n, int64_t *leaf) {
    int64_t k = depth - 1;
    for (; k > top; k--) {
        double *level = levels[k];
        const double *below = levels[k + 1];
        for (int64_t i = 0; i < n; i++) {
            int64_t node = leaf[i] >>= 1;
            level[node] = below[2 * node] + below[2 * node + 1];
        }
    }
    for (; k >= 0; k--)
        for (int64_t i = 0; i < sizes[k + 1] / 2; i++) levels[k][i] = levels[k + 1][2 * i] + levels[k + 1][2 * i + 1];
}
