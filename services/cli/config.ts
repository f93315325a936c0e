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
