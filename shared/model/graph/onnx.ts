import assert from 'node:assert/strict'
import protobuf from 'protobufjs'

/**
 * Builds ONNX models. The messages below are the part of onnx.proto (ONNX 1.19, IR version 11) that expertmesh writes;
 * the numbers are that file's field numbers.
 */
const field = (id: number, type: string, rule?: 'repeated') => (rule ? { id, type, rule } : { id, type })
const schema = protobuf.Root.fromJSON({
  nested: {
    ModelProto: {
      fields: {
        irVersion: field(1, 'int64'),
        graph: field(7, 'GraphProto'),
        opsetImport: field(8, 'OperatorSetIdProto', 'repeated'),
      },
    },
    OperatorSetIdProto: { fields: { domain: field(1, 'string'), version: field(2, 'int64') } },
    GraphProto: {
      fields: {
        node: field(1, 'NodeProto', 'repeated'),
        name: field(2, 'string'),
        initializer: field(5, 'TensorProto', 'repeated'),
        input: field(11, 'ValueInfoProto', 'repeated'),
        output: field(12, 'ValueInfoProto', 'repeated'),
      },
    },
    NodeProto: {
      fields: {
        input: field(1, 'string', 'repeated'),
        output: field(2, 'string', 'repeated'),
        name: field(3, 'string'),
        opType: field(4, 'string'),
        attribute: field(5, 'AttributeProto', 'repeated'),
        domain: field(7, 'string'),
      },
    },
    AttributeProto: {
      fields: {
        name: field(1, 'string'),
        f: field(2, 'float'),
        i: field(3, 'int64'),
        s: field(4, 'bytes'),
        ints: field(8, 'int64', 'repeated'),
        type: field(20, 'int32'),
      },
    },
    TensorProto: {
      fields: {
        dims: field(1, 'int64', 'repeated'),
        dataType: field(2, 'int32'),
        name: field(8, 'string'),
        rawData: field(9, 'bytes'),
        externalData: field(13, 'StringStringEntryProto', 'repeated'),
        dataLocation: field(14, 'int32'),
      },
    },
    StringStringEntryProto: { fields: { key: field(1, 'string'), value: field(2, 'string') } },
    ValueInfoProto: { fields: { name: field(1, 'string'), type: field(2, 'TypeProto') } },
    TypeProto: { fields: { tensorType: field(1, 'TensorTypeProto') } },
    TensorTypeProto: { fields: { elemType: field(1, 'int32'), shape: field(2, 'TensorShapeProto') } },
    TensorShapeProto: { fields: { dim: field(1, 'DimensionProto', 'repeated') } },
    DimensionProto: { fields: { dimValue: field(1, 'int64'), dimParam: field(2, 'string') } },
  },
})
const modelProto = schema.lookupType('ModelProto')

const elementType = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, float16: 10 } as const
const elementBytes = { float32: 4, uint8: 1, int8: 1, int32: 4, int64: 8, float16: 2 } as const
const attributeType = { float: 1, int: 2, string: 3, ints: 7 } as const
const EXTERNAL = 1

export type ElementType = keyof typeof elementType
/** A number is a fixed size; a string names a size known at run time. */
export type Dim = number | string
/** An integer by itself is an int attribute; `{ float }` says that a number is a float even when it is whole. */
export type Attribute = number | readonly number[] | string | { float: number }
/** The name of a tensor inside a graph; '' is an absent optional input. */
export type Value = string

/** A tensor of trained weights: it lies in the part's shard file, at offset, and is mapped, not copied. */
export type Weight = {
  name: string
  type: 'float32' | 'int8' | 'uint8'
  dims: readonly number[]
  offset: number
  bytes: number
}

/** Weights start on page boundaries so that each can be mapped by itself. */
const ALIGNMENT = 4096

/** Weights have a name space of their own: an output may be called q beside the matrix q. */
const valueNamed = (weight: string): Value => `weight ${weight}`

const product = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)

type Node = { opType: string; input: Value[]; output: Value[]; name: string; attribute: object[]; domain?: string }

/** An ONNX graph under construction. Weights are laid out in the order in which they are asked for. */
export class Graph {
  readonly weights: Weight[] = []
  readonly #nodes: Node[] = []
  /** Operators' results, and how the graph calls them: an output by its own name. */
  readonly #results = new Map<Value, string>()
  readonly #inline = new Map<string, object>()
  readonly #inputs: object[] = []
  readonly #outputs: object[] = []
  #shardBytes = 0
  #names = 0

  /** Size of the shard file that holds the weights. */
  get shardBytes(): number {
    return this.#shardBytes
  }

  input(name: string, type: ElementType, dims: readonly Dim[]): Value {
    this.#inputs.push(valueInfo(name, type, dims))
    return name
  }

  /** Best an operator's very result: any other value, one that is an output already and a result reshaped are copied at the end. */
  output(name: string, value: Value, type: ElementType, dims: readonly Dim[]): void {
    this.#outputs.push(valueInfo(name, type, dims))
    if (this.#results.get(value) === value) this.#results.set(value, name)
    else this.#nodes.push({ opType: 'Identity', input: [value], output: [name], name: `output ${name}`, attribute: [] })
  }

  /** A trained tensor, read from the shard file. */
  weight(name: string, type: Weight['type'], dims: readonly number[]): Value {
    const bytes = product(dims) * elementBytes[type]
    this.weights.push({ name, type, dims, offset: this.#shardBytes, bytes })
    this.#shardBytes = Math.ceil((this.#shardBytes + bytes) / ALIGNMENT) * ALIGNMENT
    return valueNamed(name)
  }

  /** A small constant kept in the graph itself. */
  constant(type: ElementType, dims: readonly number[], values: readonly number[]): Value {
    assert.equal(values.length, product(dims))
    const name = `${type}[${dims}] ${values}`
    if (!this.#inline.has(name)) {
      const raw =
        type === 'int64'
          ? BigInt64Array.from(values, BigInt)
          : type === 'uint8'
            ? Uint8Array.from(values)
            : Float32Array.from(values)
      assert.notEqual(type, 'float16')
      const rawData = new Uint8Array(raw.buffer)
      this.#inline.set(name, { name, dims: [...dims], dataType: elementType[type], rawData })
    }
    return name
  }

  /** Adds an operator of the default ONNX domain and returns its output. */
  op(type: string, inputs: readonly Value[], attributes: Record<string, Attribute> = {}): Value {
    return this.ops(type, inputs, 1, attributes)[0]
  }

  /** Adds an operator with `count` outputs; `domain` is '' for ONNX's own. */
  ops(
    type: string,
    inputs: readonly Value[],
    count: number,
    attributes: Record<string, Attribute> = {},
    domain = '',
  ): Value[] {
    const output = Array.from({ length: count }, () => `${type} ${this.#names++}`)
    for (const result of output) this.#results.set(result, result)
    const attribute = Object.entries(attributes).map(([name, value]) => encodeAttribute(name, value))
    this.#nodes.push({ opType: type, input: [...inputs], output, name: output[0], attribute, domain })
    return output
  }

  /** The model's bytes. Its weights are found in the file `shard`, relative to the folder the session is told. */
  encode(shard: string): Uint8Array {
    const external = this.weights.map(({ name, type, dims, offset, bytes }) => ({
      name: valueNamed(name),
      dims: [...dims],
      dataType: elementType[type],
      dataLocation: EXTERNAL,
      externalData: [
        { key: 'location', value: shard },
        { key: 'offset', value: String(offset) },
        { key: 'length', value: String(bytes) },
      ],
    }))
    const named = (value: Value): string => this.#results.get(value) ?? value
    return modelProto
      .encode(
        modelProto.fromObject({
          irVersion: 11,
          opsetImport: [
            { domain: '', version: 24 },
            { domain: 'com.microsoft', version: 1 },
          ],
          graph: {
            name: shard,
            node: this.#nodes.map((node) => ({
              ...node,
              input: node.input.map(named),
              output: node.output.map(named),
            })),
            initializer: [...this.#inline.values(), ...external],
            input: this.#inputs,
            output: this.#outputs,
          },
        }),
      )
      .finish()
  }
}

const encodeAttribute = (name: string, value: Attribute): object => {
  if (typeof value === 'number') {
    assert(Number.isInteger(value), `attribute ${name} needs { float }`)
    return { name, i: value, type: attributeType.int }
  }
  if (typeof value === 'string') return { name, s: Buffer.from(value), type: attributeType.string }
  if ('float' in value) return { name, f: value.float, type: attributeType.float }
  return { name, ints: [...value], type: attributeType.ints }
}

const valueInfo = (name: string, type: ElementType, dims: readonly Dim[]): object => ({
  name,
  type: {
    tensorType: {
      elemType: elementType[type],
      shape: { dim: dims.map((dim) => (typeof dim === 'number' ? { dimValue: dim } : { dimParam: dim })) },
    },
  },
})
