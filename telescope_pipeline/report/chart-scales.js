// Where the ticks of an axis are.

const SYMLOG_LINEAR_PART = 1;

function linearTicks(min, max, most) {
  const rough = (max - min) / Math.max(most, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough * 0.999) * power;
  const ticks = [];
  for (let n = Math.ceil(min / step - 1e-9); n * step <= max + step * 1e-9; n += 1) {
    ticks.push(Number((n * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks(min, max, most) {
  const decades = Math.log10(max / min);
  if (decades < 0.7) return linearTicks(min, max, most);
  const first = Math.floor(Math.log10(min)), last = Math.ceil(Math.log10(max));
  const inBetween = decades * 3 <= most ? [1, 2, 5] : decades * 2 <= most ? [1, 3] : [1];
  const stride = Math.max(1, Math.ceil(decades / Math.max(most, 1)));
  const ticks = [];
  for (let exponent = first; exponent <= last; exponent += 1) {
    if (exponent % stride) continue;
    for (const m of inBetween) ticks.push(Number(`${m}e${exponent}`));
  }
  return ticks.filter((tick) => tick >= min * 0.999 && tick <= max * 1.001);
}

// The few positions of a sweep, without those whose labels would touch their neighbours'.
function ticksAtPositions(positions, place, width) {
  const kept = [];
  let end = -Infinity;
  for (const x of positions) {
    const half = formatTick(x).length * 3.6 + 4;
    const middle = place(x) * width;
    if (middle - half < end) continue;
    kept.push(x);
    end = middle + half;
  }
  return kept;
}

function placeOn(scale, min, max) {
  const transform = { linear: (v) => v, log: Math.log10, symlog: Math.asinh }[scale];
  const [low, high] = [transform(min), transform(max)];
  return (value) => (transform(value) - low) / (high - low);
}

function ticksOf(scale, min, max, pixels, spacing, positions) {
  const most = Math.max(2, Math.floor(pixels / spacing));
  if (positions && scale !== "linear") {
    const seen = positions.filter((x) => x >= min && x <= max);
    if (seen.length > 1 && seen.length <= 12) return ticksAtPositions(seen, placeOn(scale, min, max), pixels);
  }
  return scale === "log" ? logTicks(min, max, most) : linearTicks(min, max, most);
}

// A little room around the data, on the axis as it is drawn.
function padded(scale, min, max, part) {
  if (min === max) return scale === "log" ? [min / 2, max * 2] : [min - (Math.abs(min) || 1) / 2, max + (Math.abs(max) || 1) / 2];
  if (scale === "log") {
    const factor = (max / min) ** part;
    return [min / factor, max * factor];
  }
  if (scale === "symlog") {
    const [low, high] = [Math.asinh(min), Math.asinh(max)];
    const room = (high - low) * part;
    return [Math.sinh(low - room), Math.sinh(high + room)];
  }
  const room = (max - min) * part;
  return [min - room, max + room];
}
