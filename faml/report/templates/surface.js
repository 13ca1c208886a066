// Isosurface of a map of n^3 bytes by naive surface nets: one vertex in every cell that the
// surface crosses, at the mean of its crossings of the cell's edges; one quad across every edge
// of the grid that it crosses (Gibson 1998). Positions are in voxels from the centre, n / 2.
"use strict";

function extractSurface(values, n, level) {
  const plane = n * n;
  const corners = [0, 1, n, n + 1, plane, plane + 1, plane + n, plane + n + 1];
  const edges = [
    [0, 1], [2, 3], [4, 5], [6, 7], [0, 2], [1, 3], [4, 6], [5, 7], [0, 4], [1, 5], [2, 6], [3, 7],
  ];
  const vertexOf = new Int32Array(n * plane).fill(-1);
  const positions = [];
  const normals = [];
  const triangles = [];
  const at = new Float32Array(8);

  for (let z = 0; z < n - 1; z++) {
    for (let y = 0; y < n - 1; y++) {
      for (let x = 0; x < n - 1; x++) {
        const cell = z * plane + y * n + x;
        let inside = 0;
        for (let c = 0; c < 8; c++) {
          at[c] = values[cell + corners[c]];
          if (at[c] > level) inside |= 1 << c;
        }
        if (inside === 0 || inside === 255) continue;
        let sx = 0, sy = 0, sz = 0, crossings = 0;
        for (const [a, b] of edges) {
          if (((inside >> a) & 1) === ((inside >> b) & 1)) continue;
          const t = (level - at[a]) / (at[b] - at[a]);
          sx += (a & 1) + t * ((b & 1) - (a & 1));
          sy += ((a >> 1) & 1) + t * (((b >> 1) & 1) - ((a >> 1) & 1));
          sz += (a >> 2) + t * ((b >> 2) - (a >> 2));
          crossings++;
        }
        const px = x + sx / crossings, py = y + sy / crossings, pz = z + sz / crossings;
        vertexOf[cell] = positions.length / 3;
        positions.push(px - n / 2, py - n / 2, pz - n / 2);
        normals.push(...normalAt(values, n, px, py, pz));
      }
    }
  }

  // Across the edge from a grid point along one axis meet four cells.
  const steps = [1, n, plane];
  for (let z = 1; z < n - 1; z++) {
    for (let y = 1; y < n - 1; y++) {
      for (let x = 1; x < n - 1; x++) {
        const here = z * plane + y * n + x;
        const dense = values[here] > level;
        for (let axis = 0; axis < 3; axis++) {
          if (dense === values[here + steps[axis]] > level) continue;
          const u = steps[(axis + 1) % 3], v = steps[(axis + 2) % 3];
          const a = vertexOf[here - u - v], b = vertexOf[here - v];
          const c = vertexOf[here], d = vertexOf[here - u];
          if (dense) triangles.push(a, b, c, a, c, d);
          else triangles.push(a, c, b, a, d, c);
        }
      }
    }
  }
  return {
    positions: new Float32Array(positions),
    normals: new Float32Array(normals),
    triangles: new Uint32Array(triangles),
  };
}

// Outward normal: down the gradient of the map, interpolated between voxels.
function normalAt(values, n, px, py, pz) {
  const x = Math.min(Math.floor(px), n - 2), y = Math.min(Math.floor(py), n - 2);
  const z = Math.min(Math.floor(pz), n - 2);
  const fx = px - x, fy = py - y, fz = pz - z;
  let gx = 0, gy = 0, gz = 0;
  for (let c = 0; c < 8; c++) {
    const cx = x + (c & 1), cy = y + ((c >> 1) & 1), cz = z + (c >> 2);
    const weight =
      (c & 1 ? fx : 1 - fx) * ((c >> 1) & 1 ? fy : 1 - fy) * (c >> 2 ? fz : 1 - fz);
    gx += weight * difference(values, cx, n, cz * n * n + cy * n + cx, 1);
    gy += weight * difference(values, cy, n, cz * n * n + cy * n + cx, n);
    gz += weight * difference(values, cz, n, cz * n * n + cy * n + cx, n * n);
  }
  const length = Math.hypot(gx, gy, gz) || 1;
  return [-gx / length, -gy / length, -gz / length];
}

function difference(values, coordinate, n, index, step) {
  const before = coordinate > 0 ? values[index - step] : values[index];
  const after = coordinate < n - 1 ? values[index + step] : values[index];
  return after - before;
}

// Voxels above a level.
function countAbove(values, level) {
  let count = 0;
  for (let i = 0; i < values.length; i++) if (values[i] > level) count++;
  return count;
}
