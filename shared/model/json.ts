/**
 * The first key that occurs twice in one object of a valid JSON text, or null. JSON.parse keeps the last of them in
 * silence, and two readers that keep different ones see different models.
 */
export const duplicateKey = (text: string): string | null => {
  const open: (Set<string> | null)[] = []
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '{') open.push(new Set())
    else if (c === '[') open.push(null)
    else if (c === '}' || c === ']') open.pop()
    else if (c === '"') {
      const begin = i
      for (i++; text[i] !== '"'; i++) if (text[i] === '\\') i++
      const keys = open.at(-1)
      if (!keys || !isKey(text, i + 1)) continue
      const key: string = JSON.parse(text.slice(begin, i + 1))
      if (keys.has(key)) return key
      keys.add(key)
    }
  }
  return null
}

/** What follows a string tells whether it is a key: values are never followed by a colon. */
const isKey = (text: string, after: number): boolean => {
  let i = after
  while (' \t\r\n'.includes(text[i])) i++
  return text[i] === ':'
}
