const pad = (value: number, width = 2): string => String(value).padStart(width, '0')
const english = (date: Date, options: Intl.DateTimeFormatOptions): string => date.toLocaleString('en-US', options)

/** Python's strftime in the C locale, local time: the directives that chat templates use. Others stay as they are. */
export const strftime = (date: Date, format: string): string => {
  const hour12 = date.getHours() % 12 || 12
  const directives: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    y: () => pad(date.getFullYear() % 100),
    m: () => pad(date.getMonth() + 1),
    d: () => pad(date.getDate()),
    H: () => pad(date.getHours()),
    I: () => pad(hour12),
    M: () => pad(date.getMinutes()),
    S: () => pad(date.getSeconds()),
    p: () => (date.getHours() < 12 ? 'AM' : 'PM'),
    A: () => english(date, { weekday: 'long' }),
    a: () => english(date, { weekday: 'short' }),
    B: () => english(date, { month: 'long' }),
    b: () => english(date, { month: 'short' }),
    '%': () => '%',
  }
  // glibc's %-d is %d without the leading zero.
  return format.replace(/%(-?)([a-zA-Z%])/g, (whole, dash: string, letter: string) => {
    const text = directives[letter]?.() ?? whole
    return dash ? text.replace(/^0(?=\d)/, '') : text
  })
}
