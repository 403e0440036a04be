// Draw the colour scale beside the panes.

export function paintScale(canvas, colours, threshold, ratio) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const [bar, rim] = [16 * ratio, 10 * ratio];
  const right = width - 6 * ratio;
  const at = (v) => height - rim - v * (height - 2 * rim);
  for (let y = rim; y < height - rim; y++) {
    const v = 1 - (y - rim) / (height - 2 * rim);
    context.fillStyle = `rgb(${colours[Math.round(v * (colours.length - 1))].join(" ")})`;
    context.fillRect(right - bar, y, bar, 1);
  }
  context.fillStyle = "#f0f0f2"; // the light box behind it is black under every theme
  context.font = `${12 * ratio}px system-ui, sans-serif`;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const v of [0, 0.25, 0.5, 0.75, 1]) context.fillText(String(v), right - bar - 5 * ratio, at(v));
  context.fillRect(right - bar - 3 * ratio, at(threshold) - ratio, bar + 6 * ratio, 2 * ratio);
}

// Draw the colours of the values from 0 to 1, never stretched, with the contour's threshold.
export function drawScale(canvas, colours, threshold) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((v) => Math.round(v * ratio));
  if (!width || !height || !colours.length) return;
  Object.assign(canvas, { width, height });
  paintScale(canvas, colours, threshold, ratio);
}
