import { InferenceSession, Tensor } from 'onnxruntime-node'
import { Code, MeshError } from '../errors.ts'
import { Graph } from './graph/onnx.ts'

export type Device = 'cpu' | 'webgpu' | 'cuda'
export type { Tensor }

/** A graph ready to run. run blocks this thread while the kernels work; outputs are fresh arrays. */
export type Session = {
  run(feeds: Readonly<Record<string, Tensor>>): Promise<Readonly<Record<string, Tensor>>>
  /** Milliseconds spent in run so far. */
  readonly spentMs: number
  close(): Promise<void>
}

export type SessionOptions = {
  /** Folder and file name of the part's shard. */
  folder: string
  shard: string
  /** Threads inside one operator. Always explicit: the default ignores cgroup limits. */
  threads: number
  device: Device
  /** Whether the memory of a run is given back after it. Without, every session keeps what its largest run needed: quicker for few. */
  frugal?: boolean
  /** Whether outputs stay on the device, with WebGPU: feeds for other sessions, until dispose is called on them. run does not wait then. */
  keep?: boolean
}

const ERRORS_ONLY = 3

/**
 * Opens a graph over its shard, which ONNX Runtime maps. Prepacking stays on: without it MatMul is not row-invariant.
 * @throws MeshError FAILED_PRECONDITION when the device cannot be had; nothing else is used in its place.
 */
export const openSession = async (graph: Graph, options: SessionOptions): Promise<Session> => {
  const session = await createSession(graph.encode(options.shard), options)
  let spentMs = 0
  return {
    async run(feeds) {
      const begun = performance.now()
      const outputs = await session.run(feeds)
      spentMs += performance.now() - begun
      return outputs
    },
    get spentMs() {
      return spentMs
    },
    close: () => session.release(),
  }
}

const plain = { interOpNumThreads: 1, executionMode: 'sequential', logSeverityLevel: ERRORS_ONLY } as const

let saturating: Promise<boolean> | undefined

/**
 * Whether products of uint8 and int8 saturate here, as they do with AVX2 but without VNNI. There ONNX Runtime is told to make weights
 * unsigned, which takes a copy of them and more time. Measured, because it would do so with VNNI too.
 */
const saturates = (): Promise<boolean> => {
  saturating ??= measureSaturation()
  return saturating
}

const measureSaturation = async (): Promise<boolean> => {
  const [width, q, w] = [64, 255, 127]
  const g = new Graph()
  const inputs = [g.input('q', 'uint8', [1, width]), g.input('w', 'int8', [width, width])]
  g.output('sums', g.op('MatMulInteger', inputs), 'int32', [1, width])
  const session = await InferenceSession.create(g.encode(''), { ...plain, intraOpNumThreads: 1 })
  const { sums } = await session.run({
    q: uint8(new Uint8Array(width).fill(q), [1, width]),
    w: new Tensor('int8', new Int8Array(width * width).fill(w), [width, width]),
  })
  await session.release()
  return (sums.data as Int32Array).some((sum) => sum !== width * q * w)
}

const createSession = async (model: Uint8Array, options: SessionOptions): Promise<InferenceSession> => {
  const { device, folder, threads, frugal = false, keep = false } = options
  const saturating = device === 'cpu' && (await saturates())
  try {
    return await InferenceSession.create(model, {
      ...plain,
      executionProviders: [device],
      intraOpNumThreads: threads,
      enableCpuMemArena: !frugal,
      ...(keep ? { preferredOutputLocation: 'gpu-buffer' } : {}),
      extra: {
        session: {
          model_external_initializers_file_folder_path: folder,
          // Idle threads must not burn the cores that the other processes of this machine compute on.
          intra_op: { allow_spinning: '0' },
          // Else a kernel that the device lacks would run on the CPU, unsaid.
          ...(device === 'cpu' ? {} : { disable_cpu_ep_fallback: '1' }),
          ...(saturating ? { x64quantprecision: '1' } : {}),
        },
      },
    })
  } catch (error) {
    if (device === 'cpu') throw error
    throw new MeshError(Code.FAILED_PRECONDITION, `device ${device} cannot be had: ${reason(error)}. ${cure[device]}`, {
      cause: error,
    })
  }
}

/** ONNX Runtime's first line without the C++ signature and failed condition before its sentence. */
const reason = (error: unknown): string => {
  const line = error instanceof Error ? error.message.split('\n')[0] : String(error)
  return line.replace(/^.* was false\. /, '').replace(/\.$/, '')
}

const cure: Record<Exclude<Device, 'cpu'>, string> = {
  webgpu:
    "On Linux, WebGPU needs a Vulkan driver and loader: install the GPU vendor's driver and libvulkan1 (NVIDIA's needs libegl1 too). Debian has a slow driver that needs no GPU: apt-get install chromium libvulkan1, then set VK_ICD_FILENAMES=/usr/lib/chromium/vk_swiftshader_icd.json. Or use --device cpu.",
  cuda: "CUDA needs Linux on x64 with an NVIDIA driver, CUDA 12, cuDNN 9 and ONNX Runtime's CUDA library, which ONNXRUNTIME_NODE_INSTALL=cuda12 node node_modules/onnxruntime-node/script/install.js fetches from nuget.org. Or use --device cpu.",
}

/** float32 values of this shape; the array is used in place. */
export const float32 = (data: Float32Array, dims: readonly number[]): Tensor => new Tensor('float32', data, dims)
export const uint8 = (data: Uint8Array, dims: readonly number[]): Tensor => new Tensor('uint8', data, dims)
export const int32 = (values: Int32Array): Tensor => new Tensor('int32', values, [values.length])
export const int64 = (values: readonly number[]): Tensor =>
  new Tensor('int64', BigInt64Array.from(values, BigInt), [values.length])
