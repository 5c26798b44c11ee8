// Numbers as the rest of the page writes them; the same rules as in numbers.py.

const inSuperscript = (number) =>
  String(number).replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
const exponentOf = (value, digits) => Number(value.toExponential(digits - 1).split("e")[1]);
const isWrittenOut = (exponent) => exponent >= -3 && exponent < 6;
const inTypography = (text) => text.replaceAll(",", "\u202f").replaceAll("-", "−");
const withDecimals = (value, decimals) =>
  value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
const withoutZeros = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

function formatNumber(value, digits = 4) {
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return inTypography(withDecimals(value, 0));
  const exponent = exponentOf(value, digits);
  if (isWrittenOut(exponent)) {
    return inTypography(withoutZeros(withDecimals(value, Math.max(digits - 1 - exponent, 0))));
  }
  const mantissa = withoutZeros(value.toExponential(digits - 1).split("e")[0]);
  return `${inTypography(mantissa)} × 10${inSuperscript(exponent)}`;
}

function formatEstimate(value, error) {
  if (!error) return formatNumber(value);
  if (Math.abs(error) < 1e-6 * Math.abs(value)) {
    return `${formatNumber(value, 6)} ± ${formatNumber(error, 2)}`;
  }
  const largest = exponentOf(Math.max(Math.abs(value), Math.abs(error)), 2);
  const last = exponentOf(error, 2) - 1;
  if (isWrittenOut(largest)) {
    const rounded = (n) => (last > 0 ? Math.round(n / 10 ** last) * 10 ** last : n);
    const pair = [value, error].map((n) => withDecimals(rounded(n), Math.max(-last, 0)));
    return inTypography(pair.join(" ± "));
  }
  const pair = [value, error].map((n) => (n / 10 ** largest).toFixed(Math.max(largest - last, 0)));
  return `(${inTypography(pair.join(" ± "))}) × 10${inSuperscript(largest)}`;
}
