import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** Where Debian's chromium keeps SwiftShader, a Vulkan driver that needs no GPU, and the loader that finds drivers. */
const folder = '/usr/lib/chromium'
const driver = join(folder, 'vk_swiftshader_icd.json')

/** Environment in which a process finds SwiftShader as its GPU; null where it is not installed (npm test installs it where it may). */
export const swiftShader: Readonly<Record<string, string>> | null = existsSync(driver)
  ? { VK_ICD_FILENAMES: driver, LD_LIBRARY_PATH: folder }
  : null
