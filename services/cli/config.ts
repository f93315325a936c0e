/** Set by whoever has other wishes of the C library. */
const TUNABLES = 'GLIBC_TUNABLES'

/**
 * What processes that compute are started with: this process's environment, and that the C library asks for huge pages for what is
 * large. Every token reads every weight it touches, and small pages keep the processor looking up where they lie.
 */
export const computeEnv = (env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv => ({
  [TUNABLES]: 'glibc.malloc.hugetlb=1',
  ...env,
})

/**
 * What Node is told before the entry of a process that computes: to mark its heap in one go. Kernels' results are new arrays, for every
 * 64 MB of which V8 else marks it beside the kernels, on every core there is; so the young objects' own collections find them, and a heap
 * of 50 MB, where it is marked, takes 20 ms.
 */
export const COMPUTE_FLAGS: readonly string[] = ['--no-incremental-marking']
